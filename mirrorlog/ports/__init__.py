"""Ports: protocols for time, devices, state folders and Kafka.

mirrorlog.adapters implements them for real, mirrorlog.simulation in memory.

- clock.py: two clocks
- closing.py: what is closed at the end of a `with` block
- devices.py: the bytes of a volume
- primary_marks.py: which volume's a primary is
- folders.py: the folder with a host's durable state
- log_files.py: the files of the logs of commands
- archive_stores.py: objects that are written once, for archives
- backup_stores.py: objects with names, for backups
- streams.py: publishing to topics and reading them by position
- tracing.py: spans of what the roles do with commands
- task_runner.py: work that several threads may share
- supervisor.py: what runs a role as a service
- reports.py: publishing reports, which nothing depends on
"""
