"""Which blocks of a volume changed between two points, exactly and with a proof.

In reading order:

- points.py: points in a volume's history, as people write them
- worded_times.py: times in words, for people
- query.py: changed_blocks(), the question and its steps
- logs.py: LogView, the log of one volume; the adapter that reads it from the topic
- mirrored.py: the same, from a mirror of the topic in another cluster
- proven_log.py: what that log covers without a hole
- partition_commands.py: the messages of a partition, from topic and archive
- kept_commands.py: the commands of one volume among messages, with their positions
- volume_commands.py: the commands of one volume, and QueryPorts
- append_times.py: when the broker appended the commands
- point_positions.py: barriers, sites and times become positions
- own_times.py: times of volumes into which recordings were imported
- fold.py: records and commands united into ChangedBlocks
- formats.py: ChangedBlocks in the formats of other tools
- ask.py: changed(), the question from Python
- divergence.py: what both sides of a promotion have written since the copies parted
- http.py, remote.py: the same question over HTTP
"""
