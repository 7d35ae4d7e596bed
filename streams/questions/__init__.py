"""Answers to sites that read a mirror of the log (docs/decisions/mirrored-logs.md).

A node without mirrored sites has none of these parts. In reading order:

- open_questions.py: which questions wait for an answer
- question_reader.py: reads the topics of questions
- table_census.py: the heads of the table, as one number
- answering_folder.py: answers in the log, between two flushes
- answers.py: puts these parts together
"""
