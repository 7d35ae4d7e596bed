"""Questions in SQL over archive and topic, by DuckDB.

In reading order:

- question.py: what is asked, and which rows of it are read
- archived_files.py: the files of the archive that a question needs
- topic_rows.py: the rows that the archive doesn't hold yet, from the topic
- entity_tables.py: volumes, sites and records of the log as tables
- database.py: the database that a query sees: views, and nothing of this machine's files
- ask.py: ask_sql(), which puts them together
- result_text.py: the rows of a result as text
"""
