"""Compaction: what the node does with the log between two flushes of a partition.

It rolls records up into higher tiers, sweeps away what a higher tier holds, and deletes what is
older than the log is kept. The order of its writes keeps the log whole: see `compactor`.

Files in reading order:

- `compactor`: LogCompactor, which runs one job of a partition at a time, a little at each call.
- `steps`: what a job tells the compactor to write.
- `partition_state`: what is remembered of a partition: what is to be done, and when.
- `broker_times`: the broker's clock, by which records grow old.
- `partition_records`: the records of a partition as the jobs read them from the table.
- `survey_job`: finds what there is to do when a partition is assigned.
- `roll_up_job`: unites records of one tier into records of the next. `rollups` holds its rules.
- `sweep_job`: deletes records that a record of a higher tier is proved to hold.
- `delays_job`: notes how long after their writes commands were appended, for questions about times.
- `retention_job`: deletes records that are too old. Its rules are in `retention`,
  and in position_times.py of the package tracking_log.
"""
