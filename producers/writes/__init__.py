"""Volumes that record what is written to them, and the bookkeeping from a write to its command.

In reading order:

- tracked_volume: the volume that programs write to, and the steps of a write
- volume_file: the same volume as a raw file of Python's io
- write_tracker: the bookkeeping of all open volumes, with one lock
- tracker_state: what the modules below share
- open_batch, batch_sending: writes join the open batch, which leaves as a tracking command
- hot_region_admission: a write's regions become hot, and others make room for them
- region_cooling, background_jobs: regions that nobody writes to leave the activity log
- primary_flush, timers: flushes of the primary; when batches and heartbeats are due
- whole_volume_fallback: what the host does when Kafka is away and there is no room left
- attached_writers: other processes that write to the primary
- fork_tracking: forked volumes (producers/forks)
"""
