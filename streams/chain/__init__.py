"""The commands that the log holds become the leaves of one Merkle tree for each partition.

Decided in docs/decisions/chain.md. The trees are pure functions of the commands topic, so they are
grown beside the fold, by a process of its own that may lag behind.

    partition_chain.py  the tree of one partition: where it goes on, and how it grows
    chain_builder.py    the trees of all partitions
    builder_process.py  grows them in a child of the node
"""
