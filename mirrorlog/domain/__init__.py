"""The words of mirrorlog as values and pure functions: no input, no output, no clock.

Files in reading order:

- volumes.py: the description of a volume
- extents.py: byte ranges, one by one and as columns
- range_columns.py: byte ranges of a device and their places in memory, as columns
- commands.py: tracking commands, and the node's answers to them
- host_keys.py: keys of hosts, and the codes by which the node knows who sent a command
- recorded_writes.py: a command of a recording, in which each write has its own time
- positions.py: positions in the log
- histories.py: the history in which a position counts, and digests of commands
- volume_states.py: the states of a volume, and the effect of each command
- promotions.py: the secondary of a site becomes the primary
- extraction.py: the extents that a command names, clipped to its volume
- wire/: commands of SCSI, NVMe and NBD, interpreted
- block_sets.py: sets of blocks, as Roaring bitmaps and as long runs
- bitmaps.py: sets of blocks made from extents, packed, and read in runs
- block_arrays.py: sets of blocks as sorted arrays, for the node's hot path
- partitioning.py: the partition of a new volume
- site_progress.py: the report of a site
- replica_states.py: the states of a secondary as people see them
- site_leases.py: which process runs a site
- verifications.py: questions and answers of a verification, and its report
- log_questions.py: questions of readers of a mirrored log, and answers
- archive_reports.py: the report of an archiver
- backup_reports.py: the report of a repository's backup of a volume, which registers it
- reports.py: the reports of hosts and of workers of the node
- report_pacing.py: when a report is worth a message
- retry_reports.py: which failures of repeated attempts are logged
- primary_marks.py: the mark of a primary, which says which volume's it is
- secondary_marks.py: the mark of a secondary, which its site and forks must find
- snapshots.py: the names and descriptions of exports that have snapshots
"""
