"""Failing over: a site's secondary becomes the primary, and the former primary a secondary.

docs/decisions/failing-over.md says why it is done in this way. In reading order:

- claims.py: what may be said of a secondary that is to be promoted
- group_claims.py: whether the secondaries of a group are at one common point
- group_promotion.py: the promotion of all members of a group, planned and carried out
- lost_writes.py: what a promotion loses
- site_log_now.py: the log of a volume as its site would read it
- held_secondary.py: a secondary from which its site keeps off
- backing_files.py: the file behind a secondary that its site reaches as an NBD export
- rejoining.py: the state with which a former primary becomes a secondary
- exported_copies.py: a former primary that its site is to reach as an NBD export
- former_primary.py: a former primary on this machine becomes the secondary of a site
"""
