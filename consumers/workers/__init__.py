"""Several workers of one site: they share its folder, and locks there say who works for what.

docs/decisions/site-workers.md says why. In reading order:

- partition_owners.py: which worker should work for which partition
- worker_locks.py: the port to the locks of a site's workers
- worker_share.py: the partitions that one worker has, and those that it should have
- worker_status.py: what a worker does, for people
- site_group.py: what the workers tell each other, and the site's name that they share
- group_files.py: the same in the site's folder
- folder_locks.py: the locks as files in the site's folder
"""
