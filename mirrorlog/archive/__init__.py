"""The archive of history: commands that Kafka may drop, in Parquet files that are never changed.

`mirrorlog archive run` (consumers/archive/) writes it. docs/archive.md has its format.

- names.py: the names of its objects
- manifests.py: which files hold the commands of which positions
- chains.py: manifests in order: what is archived, what is missing
- merges.py: the rows of many ranges in few files, for questions about one block
- parquet.py: Parquet files in memory
- command_files.py: the exact messages of the commands topic as Parquet
- archive.py: Archive, which reads them
- archived_topic.py: the archived commands of one topic, as readers of the topic want them
"""
