"""Backups: points in time of a volume, kept apart from it, each restorable alone.

Packages in reading order:

- sources/: where the bytes of a point come from, what changed, and what is proved of it
- qcow2/: the images of points, written, read, merged and checked
- repository/: points in a folder or in S3, and what becomes of them
- restoring.py: a whole volume out of a point
- files/: files and folders out of a point
- serving/: a point over NBD, or mounted
- taking/: takes one point: from the lock to the registration
- wiring.py: puts that together from the settings
"""
