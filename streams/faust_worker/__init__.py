"""Everything of the node that names Faust, and the parts that only make sense beside it.

worker.py              runs the app until a signal stops the process
app.py                 makes the Faust app and connects it to the parts of the node
kafka_options.py       librdkafka's names of client settings, translated for Faust
source_topic.py        asks the broker about the commands topic and what the group committed
start_positions.py     decides where the commands of a partition are read from (pure)
assignment.py          decides which worker has which partitions
partition_handover.py  starts and stops the work on partitions as the group assigns them
gated_transport.py     commits what the commit gate allows; hands on batches, not messages
partition_watch.py     finds partitions on which the worker is stuck (pure)
partition_loops.py     folds the batches of each partition, one after the other
acknowledged_sends.py  sends messages and waits until the broker has acknowledged them
faust_store.py         the table in RocksDB, behind the ports of table/local_store.py
faust_recovery.py      brings the tables up to the changelog when partitions are assigned
http_service.py        runs the HTTP server inside the worker
"""
