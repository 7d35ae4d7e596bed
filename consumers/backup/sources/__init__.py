"""Where the bytes of a backup's point come from, what changed since an earlier one, what is proved.

Files in reading order:

- source_point.py: a position as manifests keep it, and a point that is open to be read
- log_changes.py: which blocks changed between two positions, by the log
- device_blocks.py: which blocks of a device may be more than zeros
- secondary_source.py: the point of a site's secondary
- followed_log.py: the log of a volume, while its primary is read
- live_reads.py: a copy of the moving primary, until it is proved
- staging.py: the file of that copy
- primary_source.py: the point of the primary, by a snapshot or by such a copy
- registration.py: keeps the log from dropping what the next backup needs
- hooks.py: commands that freeze before a point is fixed, and thaw after it
- hook_guard.py: the process that runs them, and thaws whatever happens
- times.py: which state of a volume stands for a time
- wiring.py: puts the source of a primary, and a registration, together
"""
