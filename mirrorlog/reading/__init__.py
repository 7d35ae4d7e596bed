"""Readers of mirrorlog's topics that more than one role uses.

In reading order:

- read_through.py: read a topic up to its end, or a range of it, and give up without progress
- event_tail.py: the last events of partitions, read from their ends
- clusters.py: refuses the positions of another cluster
- partition_counts.py: how many partitions the topics have, and whether they agree
- catalog.py: the volumes that exist
- newest_watermark.py: how far the log is complete
- commands_now.py: the commands topic as it is now, to hold a watermark against it
- last_commands.py: which volumes the last commands of a partition may concern
- source_questions.py: the questions that a reader of a mirrored log puts to its source
- mirrored_rows.py: what an answer proves of a mirrored log
- log_reader.py: the tracking log, as sites and questions read it
- open_sessions.py: the sessions of a volume, and which of them are open
- changes_after.py: the blocks that changed after a position, for a host that recovers
- progress_topics.py: the topics to which sites and backups report
- site_reports.py: what sites and backups last reported
- present_state.py: everything at once, as `mirrorlog status` shows it
- backup_reports.py: what backups last reported, with the broker's times
"""
