"""The tracking log: which blocks of each volume changed between any two positions. Pure.

Files in reading order:

- tiers.py: the names of the tiers
- records.py: one record, the blocks that changed in `(after, through]`
- record_parts.py: records split by block range so that each part fits into a message
- heads.py: heads of volumes, heartbeats of sessions, watermarks
- breaks.py: what shows that a position means another command now
- keys.py: keys of the changelog topic, and names of logs
- head_census.py: all heads of a partition as one number, for mirrors
- coverage.py: one reader's copy of a volume's log, and the proof that no position is missing
- position_times.py: which position was reached at a time, by notes of the broker's time
- publication_delays.py: how long after their writes the commands of a range were appended
- site_log.py: the same for a site, with what its secondary has missed
"""
