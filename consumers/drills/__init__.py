"""Drills: a secondary is served as of a consistent position, to rehearse a disaster.

Files in reading order:

- still_secondaries.py: opens a secondary, and keeps its writers off
- holding.py: holds it still at a consistent position
- drill_copy.py: a copy of it, as a reflink where the file system can
- wiring.py: puts together what holding needs
"""
