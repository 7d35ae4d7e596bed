"""The engine on Faust. Everything of the node that names Faust, and the parts that it alone needs.

faust_engine.py        FaustEngine, which implements the port (streams/engine.py)
worker.py              runs the app until a signal stops the process
app.py                 makes the Faust app and connects it to the parts of the node
kafka_options.py       librdkafka's names of client settings, translated for Faust
assignment.py          decides which worker has which partitions
gated_transport.py     commits what the node allows; hands on batches, not messages
kafka_connections.py   prepares the connections of a client before they are used
large_answers.py       receives what a broker sends into memory that is used again
large_records.py       sends large records with fewer copies
fetched_columns.py     reads what was fetched of the commands by column
record_batches.py      checks and decompresses the record batches of a fetch
partition_watch.py     finds partitions on which the worker is stuck (pure)
acknowledged_sends.py  sends messages and waits until the broker has acknowledged them
faust_store.py         the table in RocksDB, behind the ports of table/local_store.py
faust_parts.py         the private parts of Faust that this package touches, for a test
faust_recovery.py      brings the tables up to the changelog when partitions are assigned
hosted_service.py      runs a service of the node, such as HTTP, inside the worker
"""
