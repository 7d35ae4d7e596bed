"""How every part of the system does, judged from what the topics hold. Pure.

`mirrorlog status`, `mirrorlog check` and the metrics ask the same functions. They take the newest
events with the broker's times, and return rows with a health, a reason and what to do next.

In reading order:

- health.py: the four levels of health, and the thresholds between them
- heard.py: an event, and when the broker took it
- sites.py: which sites live
- replicas.py: one row for each secondary
- verified.py: what the last verification of each secondary found
- groups.py: one row for each consistency group at each site
- hosts.py: one row for each volume that a host has open
- nodes.py: the workers of the node, and the partitions that none of them has
- archives.py: how far archives are
- backups.py: how old the last points of backups are
- overview.py: all of it together
"""
