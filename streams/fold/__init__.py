"""The fold: one batch of tracking commands becomes log records, heads and a watermark.

Everything here is pure except `fold_batch`, which executes the plan, and `batch_plan`, which reads
the table and the catalog. A batch passes three stages. *Response* checks each command and answers
it. *Extraction* (`mirrorlog/domain/extraction.py`, called by the response) turns its extents into
addresses inside the volume. *Log* plans the records and writes them.

Files in reading order:

- `batch`: EventBatch, the events of one partition by column.
- `fold_batch`: BatchFolder.record, the way of a batch from its events to the durable log.
- `batch_plan`: BatchPlanner, the plan of a batch's flush, also ahead of its turn.
- `response`: what the node does with one event, and what it answers.
- `known_positions`: which positions that a command names belong to the partition's history.
- `session_order`: whether a command continues its session, and whether commands before it are lost.
- `bulk_fold`: volumes whose commands are all plain are folded without looking at each command.
- `flush_plan`: everything that one flush writes, in the order of its acknowledgements.
- `authenticity`: whether a command was sent by somebody who may touch its volume.
- `named_sessions`: which sessions the head of a volume names, if there are too many.
- `volume_fold`: the record and the head of one volume.
- `missed_fold`: the records of what each site with a forked secondary has missed.
- `batch_delays`: how long after their writes the commands of a batch were appended.
- `traced_batches`: traces of batches, if they are switched on.
- `commit_gate`: which source offsets may be committed.
"""
