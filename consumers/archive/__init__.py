"""Archives history: the commands that Kafka is about to drop, in Parquet files by volume and day.

The format and its readers are in mirrorlog/archive/, because questions read archives, too.

- plan.py: what is done next with a partition (pure)
- topic_comparison.py: what the topic holds, held against the archive
- archiver.py: Archiver, which does it
- row_files.py: the files of rows by volume and day
- row_merger.py: RowMerger, which writes the rows of many ranges again, in one order
- sorted_rows.py, merged_files.py: rows in order, and the files that hold them
- held_retention.py: while archiving is on, nothing leaves the topic that isn't archived
- progress.py: how far an archiver is, for `status` and metrics
- wiring.py: puts an archiver together from the settings, and runs it
- verify.py: is the archive whole?
- chain_check.py: are its commands those of the tree of their partition?
"""
