"""The log table: the tracking log of this worker's partitions, on its disk and in the changelog.

The table's changelog topic is the log that sites read. The table itself is RocksDB, by partition.

Files in reading order:

- `log_table`: LogTable, and the order in which a flush becomes durable.
- `flush_counters`: what was written since the worker's start.
- `local_store`: the port to the rows on the disk, in the parts that its users need.
- `acknowledged_end`: what a table keeps at once of what the changelog acknowledged.
- `rocks_view`: a view of one state of a partition's table in RocksDB.
- `outgoing`: a message that is sent and waited for.
- `changelog_follower`: brings the table up to the changelog, and keeps a standby's there.
- `kept_heads`: of two heads of a volume the later one, wherever it stands in the changelog.
- `table_files`: the table as it lies on the disk, read without the node.
- `rebuild_check`: folds the commands again and compares every record with them.
- `record_digests`: what records say, small enough to compare all of them.
"""
