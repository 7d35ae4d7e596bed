"""The histories of the partitions: what shows that one ended, and how the next one begins.

docs/decisions/histories.md says what a history is, and why each step is as it is.

Files in reading order:

- `evidence`: what shows that the history of a partition ended, at an assignment. Pure.
- `partition_histories`: PartitionHistories, which gathers the evidence and acts on it.
- `renewal`: renew_history, the numbered steps by which a history begins.
"""
