"""Events and their bytes.

- events.py: every event in Avro, by the contracts in schemas/
- command_columns.py: many tracking commands decoded together, for the node's hot path
- status_batches.py: the statuses in one event of the status topic
"""
