"""A run of broker, node, host and sites as real processes, and the proof that it ended right.

In reading order:
- plan: what the recording holds, and what a run must therefore end with.
- workspace: the folder of a run, and the topics on a user's cluster, both removed at the end.
- run: the processes.
- stages: what happens in which order, and the result.
- proof: the tracking log read back, the sites' reports, and the files compared.
- view: bars, lines and the table.
"""
