"""The files that a host keeps in its state folder, so that a crash forgets no write.

In reading order:

- activity_log.py: the regions that may hold unpublished writes, durable before a write begins.
- activity_format.py: the file format of the activity log, and what an old log says.
- spool.py: commands that wait for Kafka, on the disk.
- spool_recovery.py: what the spool of a dead session says.
- disk_folder.py: the state folder on a file system (the port is mirrorlog/ports/folders.py).
"""
