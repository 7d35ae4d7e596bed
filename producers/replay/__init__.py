"""Replaying a recording of block I/O through a host.

In reading order:

- replay.py: performs the requests of a trace on tracked volumes.
- contents.py: the generated data that its writes write.
- checkpoint.py: how far a replay has come, so that it continues after a crash.
"""
