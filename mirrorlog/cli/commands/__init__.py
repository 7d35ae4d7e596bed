"""A file for each command. Each exports `app`, which main.py loads when the command runs.

In the order in which a new user meets them:
- demo: everything in one go.
- broker, topics, volume: the embedded Kafka, the topics, and the volumes; volume_group and
  volume_authenticate are commands of volume.
- host: the group of host_serve (an NBD export), host_replay (a recording), host_recover (what a
  crashed host left), host_digest (primaries, hashed for a verification) and host_keygen (a key).
- node, site: the processing node and the remote side; site_serve serves a secondary for a drill.
- status, check: how everything does, for people and for monitoring.
- dashboard: the same as status in a browser.
- verify: does a secondary equal its primary?
- promote: the secondary of a site becomes the primary.
- divergence: what both sides have written since two copies parted.
- rejoin: a former primary follows the new one.
- failback: promote and rejoin in the planned order.
- changed: which blocks of a volume changed in a range.
- audit: the group of what is asked of a volume's history, and of proofs that it wasn't altered;
  audit_volume lists the writes, audit_chain grows the trees of the commands, audit_seal signs them,
  audit_check holds what is kept against them, audit_prove and audit_verify prove one command,
  audit_cosign is a witness, and audit_keygen makes keys.
- backup: the group of backup_volume (one point of a volume), backup_run (again and again),
  backup_list, backup_check, backup_prune, backup_drop and backup_diff (the points of a repository),
  backup_serve and backup_mount (a point at once), and backup_forget (the log keeps nothing for it
  any more).
- restore: files and folders out of a point.
- archive: history in Parquet files, before Kafka drops it.
- sql: questions in SQL over archive and topic.
- command, import_: tracking commands by hand, and from what other tools recorded.
- log: the tracking log, shown and checked.
- config: the settings, and where they come from.
- doctor: what breaks mirrorlog on this machine and its cluster.
- acl: the rights on Kafka that each role needs.
- completion: a script for the user's shell.
- man: man pages of all commands.
"""
