"""The history of a volume as rows: who wrote what, where and when, and what else happened to it.

In reading order:

- definition.py: the columns, their types and meanings, and the closed list of kinds, as data
- batches.py: HistoryBatch, many rows as numpy columns
- source.py: HistorySource, the port of everything that holds rows, and what it covers
- row_parts.py: the rows of a command that is decoded alone
- command_rows.py: command_rows(), whole batches of commands by column
- arrow_tables.py: rows as Arrow tables and back, and how Parquet files hold them
- topic_history.py: the rows of the commands topic
- archive_history.py: the rows of an archive, and of archive and topic together
"""
