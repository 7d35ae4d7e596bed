"""The contracts of mirrorlog's events: Avro schemas, one file a version, `name.vN.avsc`.

A file never changes once it is released, and none is removed: the bytes of every release stay
readable. mirrorlog.codec.events loads them.
"""
