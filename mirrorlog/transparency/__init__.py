"""Transparency logs: Merkle trees over commands, and what is signed and proved of them. Pure.

The formats are those of the Go checksum database and of Certificate Transparency's tiled logs, so
programs of others read and verify them.

    notes.py         signed notes (c2sp.org/signed-note)
    ed25519_keys.py  the keys that sign them, as a log or as a witness
"""
