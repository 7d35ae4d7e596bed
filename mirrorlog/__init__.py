"""mirrorlog keeps remote copies of volumes up to date by sending addresses instead of data.

The packages, from the lowest layer to the highest:

- errors.py, json_text.py: errors, and JSON of which nothing is believed yet
- topics.py, units.py: topics, sizes and durations as text
- metric_samples.py, metrics.py: metrics, and the closed list of them
- acls.py: the rights on Kafka that each role needs
- domain/: volumes, extents, commands, bitmaps (pure)
- tracking_log/: which blocks changed between any two positions (pure)
- transparency/: Merkle trees over commands, signed checkpoints and proofs (pure)
- ports/: protocols for time, devices, folders and Kafka
- codec/: events and their bytes (Avro)
- broker_record.py: the record of an embedded broker in its folder
- registry_access.py: how a schema registry is reached
- bootstrap_servers.py: which Kafka servers this process talks to, and who named them
- settings.py, setting_errors.py: the settings, and what is wrong with one in words
- secret_files.py: secrets that files hold
- adapters/: the ports on this machine and on a Kafka cluster
- processes/: child processes that die with their parent
- broker/: an embedded Kafka
- reading/: the topics as several roles read them
- extras.py: packages of optional parts
- history/: who wrote what, as rows in columns
- archive/: history that Kafka may drop, in Parquet files
- changed/: the question "which blocks changed?"
- status/: how everything does (pure)
- producers/, streams/, consumers/: the three roles (hosts, the node, sites)
- simulation/: Kafka, devices and folders in memory, for tests
- cli/: the command line
"""

__version__ = "0.1.0"
