"""Transparency logs: Merkle trees over commands, and what is signed and proved of them. Pure.

The formats are those of Certificate Transparency (RFC 6962) and of C2SP (c2sp.org), so programs of
others read and verify them.

    merkle.py         hashes, inclusion and consistency proofs
    tiles.py          the static files of a log, and a log that is read from them
    growing_log.py    new leaves become files
    command_chain.py  the leaf of a tracking command
    comparing.py      commands that are kept, held against a tree
    log_names.py      the name of a log
    notes.py          signed notes
    ed25519_keys.py   the keys that sign them, as a log or as a witness
    checkpoints.py    the root of a log at a size
    proof_files.py    files that prove one leaf offline
"""
