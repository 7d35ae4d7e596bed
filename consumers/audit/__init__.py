"""Who wrote what, where and when: questions to the history of a volume.

In reading order:

- question.py: what is asked for, and which rows answer it
- audit_range.py: the points of a question become positions; what of them isn't kept any more
- statuses.py: the node's statuses, as far as they are kept, beside the rows
- ask.py: audit(), the question from Python, and AuditAnswer, its rows
- tally.py: what an answer amounts to
- text_rows.py: rows as text: a table, CSV, JSON Lines
- arrow_files.py: rows as Parquet and Arrow files
- output_file.py: a file that appears under its name only when it is whole
"""
