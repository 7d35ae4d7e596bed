"""Who wrote what, where and when: questions to the history of a volume.

In reading order:

- question.py: what is asked for, and which rows answer it
- audit_range.py: the points of a question become positions; what of them isn't kept any more
- writes_not_kept.py: how many writes of the volume retention took, by the log
- statuses.py: the node's statuses, as far as they are kept, beside the rows
- ask.py: audit(), the question from Python, and AuditAnswer, its rows
- tally.py: what an answer amounts to
- changes.py: the rows whose extents changed
- range_grid.py: a volume in ranges of one size
- summary.py: top hosts, hottest ranges, rewrite factor, working set and backups an hour
- heat.py: writes by range and time
- heat_picture.py: the same as a picture
- text_rows.py: rows as text: a table, CSV, JSON Lines
- arrow_files.py: rows as Parquet and Arrow files
- output_file.py: a file that appears under its name only when it is whole
"""
