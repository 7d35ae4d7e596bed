"""The closed list of all metrics that mirrorlog exports, with their meanings (pure).

Names follow Prometheus' rules (prometheus.io, "Metric and label naming"): the prefix `mirrorlog_`,
a thing, a base unit in the plural, and `_total` for counters. What isn't known has no sample: an
absent series is `null`, never a number. A metric that is a problem is 0 while all is well.

Roles yield samples; mirrorlog/adapters/metrics_page.py makes them the text that Prometheus reads.
docs/metrics.md shows this list, and a test compares the two.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from mirrorlog.metric_samples import ExportingRole, MetricDefinition, MetricKind


def _define(
    kind: MetricKind,
    name: str,
    role: ExportingRole,
    labels: str,
    meaning: str,
    *,
    is_problem: bool = False,
) -> MetricDefinition:
    return MetricDefinition(
        name=f"mirrorlog_{name}",
        kind=kind,
        labels=tuple(labels.split()),
        role=role,
        meaning=meaning,
        is_problem=is_problem,
    )


_gauge = partial(_define, MetricKind.GAUGE)
_counter = partial(_define, MetricKind.COUNTER)
_durations = partial(_define, MetricKind.HISTOGRAM)

_R = ExportingRole

BUILD_INFO: Final = _gauge(
    "build_info",
    _R.EVERY,
    "role version",
    "Always 1. The labels say which role of which release the process runs.",
)

# A site: one series a volume, of the report that the site published last.

REPLICA_STATE: Final = _gauge(
    "replica_state",
    _R.SITE,
    "site volume state",
    "1 for the state in which the secondary is, 0 for each other state.",
)
REPLICA_STATE_NUMBER: Final = _gauge(
    "replica_state_number",
    _R.SITE,
    "site volume",
    "The state as a number: 0 CONSISTENT, 1 RETIRED, 2 SETTLING, 3 SYNCING, 4 WAITING, 5 STOPPED, "
    "6 UNKNOWN, 7 DETACHED, 8 DIVERGED. All but 0, 1 and 7 mean that the secondary isn't known to "
    "equal the primary.",
    is_problem=True,
)
REPLICA_LAG: Final = _gauge(
    "replica_lag_seconds",
    _R.SITE,
    "site volume",
    "The age of the oldest write that the secondary lacks; 0 if it lacks none. Absent if nobody "
    "knows (replica_lag_unknown).",
    is_problem=True,
)
REPLICA_LAG_UNKNOWN: Final = _gauge(
    "replica_lag_unknown",
    _R.SITE,
    "site volume",
    "1 if nobody knows how far the secondary is behind: it is STOPPED or WAITING, makes its first "
    "copy, commands wait for the node, or it hasn't been known for a minute that the log holds all "
    "commands, as while Kafka is away. An alert on lag must look at this, too.",
    is_problem=True,
)
REPLICA_BEHIND: Final = _gauge(
    "replica_behind_bytes",
    _R.SITE,
    "site volume",
    "The bytes that are out of sync: the log names them and the secondary lacks them. Absent if "
    "nobody knows.",
    is_problem=True,
)
REPLICA_SIZE: Final = _gauge(
    "replica_size_bytes", _R.SITE, "site volume", "The size of the volume."
)
REPLICA_MAY_PROMOTE: Final = _gauge(
    "replica_may_promote",
    _R.SITE,
    "site volume",
    "1 if the secondary equals the primary as of a known position, so that it can be promoted "
    "without force; 0 otherwise.",
)
REPLICA_LAST_APPLIED: Final = _gauge(
    "replica_last_applied_timestamp_seconds",
    _R.SITE,
    "site volume",
    "When the site last saved a new applied position, in seconds since 1970 by its clock. It "
    "stands still while nothing is written.",
)
REPLICA_LAST_CONSISTENT: Final = _gauge(
    "replica_last_consistent_timestamp_seconds",
    _R.SITE,
    "site volume",
    "When the secondary was last known to equal the primary, in seconds since 1970 by the site's "
    "clock. While the secondary is CONSISTENT it moves on every 15 s, also while nothing "
    "is written, if Kafka says that the log holds all commands. Now minus this is the age of the "
    "last consistent point.",
)
REPLICA_RESYNC: Final = _gauge(
    "replica_resync",
    _R.SITE,
    "site volume rung",
    "1 for the rung of the resync whose result isn't proved yet, 0 otherwise: changed (the blocks "
    "that the log names), allocated or full (the log couldn't say what changed; `reason` in the "
    "site's report says why).",
    is_problem=True,
)
REPLICA_COPIED: Final = _counter(
    "replica_copied_bytes_total",
    _R.SITE,
    "site volume",
    "The bytes copied from the primary since the site's start.",
)
REPLICA_COMPARED: Final = _counter(
    "replica_compared_bytes_total",
    _R.SITE,
    "site volume",
    "The bytes of the primary that copies compared with the secondary since the site's start "
    "(`--checksum`, `--from-seed`).",
)
REPLICA_EQUAL: Final = _counter(
    "replica_equal_bytes_total",
    _R.SITE,
    "site volume",
    "The bytes of these that the secondary held already.",
)
REPLICA_ETA: Final = _gauge(
    "replica_copy_remaining_seconds",
    _R.SITE,
    "site volume",
    "How long the copy that runs will take at its rate of the last seconds. Absent if none runs or "
    "nobody knows.",
)
SITE_VOLUMES: Final = _gauge(
    "site_volumes",
    _R.SITE,
    "site state",
    "The number of secondaries in each state, of all volumes of the site.",
)
SITE_VOLUMES_UNLISTED: Final = _gauge(
    "site_volumes_unlisted",
    _R.SITE,
    "site",
    "The number of volumes that have no series of their own, because the site has more than "
    "`metrics_volumes`. Those that aren't CONSISTENT come first.",
)
SITE_MAX_LAG: Final = _gauge(
    "site_max_lag_seconds",
    _R.SITE,
    "site",
    "The largest known lag of all volumes of the site.",
    is_problem=True,
)
SITE_LAG_UNKNOWN: Final = _gauge(
    "site_lag_unknown_volumes",
    _R.SITE,
    "site",
    "The number of volumes of which nobody knows how far they are behind; retired ones aren't "
    "counted.",
    is_problem=True,
)
SITE_BEHIND: Final = _gauge(
    "site_behind_bytes",
    _R.SITE,
    "site",
    "The sum of the known bytes that are out of sync.",
    is_problem=True,
)
SITE_HEARTBEAT: Final = _gauge(
    "site_heartbeat_timestamp_seconds",
    _R.SITE,
    "site",
    "When the site last did a piece of work: a round of its loop, or a run of blocks. In seconds "
    "since 1970 by its clock. It stands still if a device or Kafka doesn't answer.",
)
SITE_WORKERS: Final = _gauge(
    "site_workers",
    _R.SITE,
    "site",
    "The number of workers of the site that lived at this worker's last look, twice a second. "
    "Absent, as all metrics of workers, for a site in one process.",
)
SITE_PARTITIONS: Final = _gauge(
    "site_partitions",
    _R.SITE,
    "site",
    "The number of partitions that the workers share. If all workers together have fewer, nobody "
    "works for the others: a worker that starts or hangs, or none.",
)
SITE_WITHOUT_WORKER: Final = _gauge(
    "site_partitions_without_worker",
    _R.SITE,
    "site",
    "The number of partitions that no worker had locked at this worker's last two looks, 5 s "
    "apart: nobody copies their volumes. A worker that hangs keeps its locks, and "
    "site_heartbeat_timestamp_seconds tells of it.",
    is_problem=True,
)
SITE_WORKER_PARTITIONS: Final = _gauge(
    "site_worker_partitions",
    _R.SITE,
    "site worker",
    "The number of partitions that this worker has locked. The label is its slot.",
)
SITE_WORKER_VOLUMES: Final = _gauge(
    "site_worker_volumes",
    _R.SITE,
    "site worker",
    "The number of volumes in the partitions of this worker.",
)
SITE_WORKER_TAKEN: Final = _counter(
    "site_worker_taken_partitions_total",
    _R.SITE,
    "site worker",
    "The partitions that this worker has locked since its start: those of its first share, and "
    "those that another worker gave back or lost.",
)
SITE_WORKER_GIVEN_BACK: Final = _counter(
    "site_worker_given_back_partitions_total",
    _R.SITE,
    "site worker",
    "The partitions that this worker has given back to others since its start.",
)

# A site: one series a consistency group.

GROUP_COMMON_POINT: Final = _gauge(
    "group_common_point_timestamp_seconds",
    _R.SITE,
    "site group",
    "The newest time, in seconds since 1970 by the site's clock, of which the secondaries of the "
    "group are known to hold every write that was acknowledged before it, all at one common point. "
    "While no member lacks anything it moves on as replica_last_consistent_timestamp_seconds does. "
    "Now minus this is the age of the last common point. Absent if there is none or nobody knows.",
)
GROUP_WITHOUT_POINT: Final = _gauge(
    "group_without_common_point",
    _R.SITE,
    "site group",
    "1 unless all secondaries of the group are known to be at one common point.",
    is_problem=True,
)
GROUP_POINTS: Final = _counter(
    "group_common_points_total",
    _R.SITE,
    "site group",
    "The common points that the group has reached since the site's start.",
)
GROUP_UNPROVED: Final = _counter(
    "group_unproved_cycles_total",
    _R.SITE,
    "site group",
    "The cycles of the group since the site's start that ended at no new common point: a member "
    "was written to while it was read without a snapshot, a snapshot broke, or something failed.",
    is_problem=True,
)

# The node: of one worker.

NODE_COMMANDS: Final = _counter(
    "node_commands_total",
    _R.NODE,
    "node code",
    "The commands that the worker answered with each status code since its start. A command that "
    "is read again counts again.",
)
NODE_QUARANTINED: Final = _counter(
    "node_quarantined_total",
    _R.NODE,
    "node",
    "The events that the worker refused and kept in mirrorlog.quarantine since its start.",
    is_problem=True,
)
NODE_FLUSH_DURATION: Final = _durations(
    "node_flush_duration_seconds",
    _R.NODE,
    "node",
    "How long a flush of the log took, with its acknowledgements.",
)
NODE_RECORDS_WRITTEN: Final = _counter(
    "node_records_written_total",
    _R.NODE,
    "node tier",
    "The log records, or parts of them, that the worker wrote in each tier since its start: second "
    "by flushes, the others by roll-ups.",
)
NODE_HISTORIES_RENEWED: Final = _counter(
    "node_histories_renewed_total",
    _R.NODE,
    "node",
    "How often the worker renewed the history of a partition since its start. All volumes of the "
    "partition are then copied in full.",
    is_problem=True,
)
NODE_PARTITIONS: Final = _gauge(
    "node_partitions",
    _R.NODE,
    "node",
    "The number of partitions that the worker owns and whose commands it folds.",
)
NODE_RECOVERING: Final = _gauge(
    "node_recovering",
    _R.NODE,
    "node",
    "1 while the worker has no settled place in its group: a rebalance or a recovery runs.",
    is_problem=True,
)
NODE_PARTITION_BEHIND: Final = _gauge(
    "node_partition_behind_commands",
    _R.NODE,
    "node partition",
    "The positions between the end of the log and the end of the commands at the last fetch. "
    "Markers of transactions count.",
    is_problem=True,
)
NODE_PARTITION_LAG: Final = _gauge(
    "node_partition_lag_seconds",
    _R.NODE,
    "node partition",
    "How long the log has been behind the commands without a break; 0 if it isn't.",
    is_problem=True,
)
NODE_PARTITION_STUCK: Final = _gauge(
    "node_partition_stuck",
    _R.NODE,
    "node partition",
    "1 if there is work to do in the partition and nothing of it was done for five minutes.",
    is_problem=True,
)
NODE_HOLDING_BACK: Final = _gauge(
    "node_holding_back_seconds",
    _R.NODE,
    "node",
    "For how long the cluster hasn't acknowledged what the worker sends; 0 if it does. The worker "
    "commits nothing meanwhile, and stops after `patience_s`.",
    is_problem=True,
)
NODE_TABLE_BYTES: Final = _gauge(
    "node_table_bytes",
    _R.NODE,
    "node partition",
    "The size of the partition's table on the worker's disk, as RocksDB estimates it.",
)

# The node: of the registered backups of the volumes whose commands the worker folds.

BACKUP_LAST_POINT: Final = _gauge(
    "backup_last_point_timestamp_seconds",
    _R.NODE,
    "volume repository address",
    "When the newest point of the volume in the repository was finished, in seconds since 1970 by "
    "the clock of the machine that made it. Now minus this is the age of the newest backup. Absent "
    "if there is no point.",
)
BACKUP_INTERVAL: Final = _gauge(
    "backup_interval_seconds",
    _R.NODE,
    "volume repository address",
    "The time between two backups, as `backup run --every` promised. Absent if nothing was "
    "promised.",
)
BACKUP_OVERDUE: Final = _gauge(
    "backup_overdue",
    _R.NODE,
    "volume repository address",
    "1 if two backups were missed of those that were promised, and a minute is over; 0 otherwise.",
    is_problem=True,
)
BACKUP_FAILED: Final = _gauge(
    "backup_failed",
    _R.NODE,
    "volume repository address",
    "1 if the last attempt failed, 0 if it made a point.",
    is_problem=True,
)
BACKUP_INCONSISTENT: Final = _gauge(
    "backup_inconsistent",
    _R.NODE,
    "volume repository address",
    "1 if it isn't proved that the newest point equals the volume as of its position, 0 if it is. "
    "Absent if there is no point.",
    is_problem=True,
)
BACKUPS_UNLISTED: Final = _gauge(
    "backups_unlisted",
    _R.NODE,
    "node",
    "The number of backups that have no series of their own, because the worker knows of more than "
    "`metrics_volumes`. Those that are a problem come first.",
)

# A host: of one process. `volume` is a volume that it has open.

HOST_WRITES: Final = _counter(
    "host_writes_total",
    _R.HOST,
    "volume",
    "The extents (writes, zeros and discards) that commands of this session name. A write that was "
    "in flight when its batch closed is named again.",
)
HOST_WRITTEN: Final = _counter(
    "host_written_bytes_total",
    _R.HOST,
    "volume",
    "The bytes of these extents.",
)
HOST_COMMANDS: Final = _counter(
    "host_commands_total",
    _R.HOST,
    "",
    "The commands that this session has queued for Kafka, heartbeats included.",
)
HOST_ACKNOWLEDGEMENT: Final = _durations(
    "host_acknowledgement_duration_seconds",
    _R.HOST,
    "",
    "The time from handing a command to the Kafka client until the cluster acknowledged it.",
)
HOST_HOT_REGIONS: Final = _gauge(
    "host_hot_regions",
    _R.HOST,
    "volume",
    "The regions of the volume in the activity log. After a crash they are published as dirty.",
)
HOST_HOT_REGIONS_LIMIT: Final = _gauge(
    "host_hot_regions_limit",
    _R.HOST,
    "",
    "How many regions the activity log may hold, for all volumes of the host together.",
)
HOST_WHOLE_VOLUME: Final = _gauge(
    "host_whole_volume_hot",
    _R.HOST,
    "volume",
    "1 while the whole volume counts as dirty: neither the spool nor the activity log had room "
    "while Kafka was away, or the history broke.",
    is_problem=True,
)
HOST_VOLUME_FAILED: Final = _gauge(
    "host_volume_failed",
    _R.HOST,
    "volume",
    "1 if no write of the volume may begin any more: its primary failed, or the node refused a "
    "command.",
    is_problem=True,
)
HOST_QUEUED: Final = _gauge(
    "host_queued_bytes",
    _R.HOST,
    "",
    "The bytes of commands that the Kafka client holds and that aren't acknowledged yet.",
)
HOST_SPOOL: Final = _gauge(
    "host_spool_bytes",
    _R.HOST,
    "",
    "The disk space that the spool takes: commands that wait for Kafka.",
    is_problem=True,
)
HOST_SPOOL_LIMIT: Final = _gauge(
    "host_spool_limit_bytes",
    _R.HOST,
    "",
    "The disk space that the spool may take.",
)
HOST_SNAPSHOT_DISK: Final = _gauge(
    "host_snapshot_disk_bytes",
    _R.HOST,
    "volume",
    "The disk space of the old contents that are kept for the snapshots of an export.",
)
HOST_SNAPSHOT_DISK_LIMIT: Final = _gauge(
    "host_snapshot_disk_limit_bytes",
    _R.HOST,
    "volume",
    "The disk space that these may take; the oldest snapshot breaks beyond it.",
)
HOST_KAFKA_AWAY: Final = _gauge(
    "host_kafka_away_seconds",
    _R.HOST,
    "",
    "For how long Kafka has acknowledged nothing although commands wait for it; 0 if it answers. "
    "It counts once `host_away_s` is over.",
    is_problem=True,
)
HOST_FORK_STATE: Final = _gauge(
    "host_fork_state",
    _R.HOST,
    "volume site state",
    "1 for the state of the secondary to which the host itself sends writes, 0 for each other "
    "state.",
)

# An archiver (`mirrorlog archive run`).

ARCHIVE_BEHIND: Final = _gauge(
    "archive_behind_positions",
    _R.ARCHIVE,
    "partition",
    "Positions that the log had recorded and the archive lacked at the end of the last round.",
)
ARCHIVE_THROUGH: Final = _gauge(
    "archive_through_position",
    _R.ARCHIVE,
    "partition",
    "The position at which the archive ends; -1 before the first.",
)
ARCHIVE_COMPLETE: Final = _gauge(
    "archive_complete_timestamp_seconds",
    _R.ARCHIVE,
    "partition",
    "When everything that was recorded was archived last: seconds since 1970 by the archiver's "
    "clock.",
)
ARCHIVE_COMMANDS: Final = _counter(
    "archive_commands_total",
    _R.ARCHIVE,
    "partition",
    "Commands that this archiver has archived. What another one archived first doesn't count.",
)
ARCHIVE_BYTES: Final = _counter(
    "archive_written_bytes_total",
    _R.ARCHIVE,
    "partition",
    "Bytes of the objects that this archiver has created.",
)
ARCHIVE_FAILURES: Final = _counter(
    "archive_failures_total",
    _R.ARCHIVE,
    "partition",
    "Rounds that failed: the store or Kafka refused, or commands are missing.",
)

# The dashboard.

DASHBOARD_LOOK_DURATION: Final = _durations(
    "dashboard_look_duration_seconds",
    _R.DASHBOARD,
    "",
    "How long a look at the topics took that succeeded. The dashboard rests twice as long.",
)
DASHBOARD_LOOK_FAILURES: Final = _counter(
    "dashboard_look_failures_total",
    _R.DASHBOARD,
    "",
    "The looks that failed since the dashboard's start, as while Kafka is away.",
)
DASHBOARD_LOOKED_AT: Final = _gauge(
    "dashboard_last_look_timestamp_seconds",
    _R.DASHBOARD,
    "",
    "When the last look succeeded, in seconds since 1970 by the dashboard's clock. The page shows "
    "what was then. Absent before the first.",
)
DASHBOARD_PAGES: Final = _gauge(
    "dashboard_pages",
    _R.DASHBOARD,
    "",
    "The number of open pages, to each of which a stream of events is sent.",
)
DASHBOARD_QUESTIONS: Final = _gauge(
    "dashboard_questions",
    _R.DASHBOARD,
    "",
    "The number of questions about volumes that are being answered: four at most.",
)
DASHBOARD_REFUSED: Final = _counter(
    "dashboard_refused_requests_total",
    _R.DASHBOARD,
    "",
    "The requests that were refused since the dashboard's start: without the token, of another "
    "site, too large, or too many at a time.",
)

METRICS: Final = tuple(
    value for value in list(globals().values()) if isinstance(value, MetricDefinition)
)
"""All metrics, in the order of this file."""

PROCESS_METRICS: Final = (
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
)
"""Metrics of the process, which every role exports under the names that all clients use."""

REPLICA_STATE_NUMBERS: Final = (
    "CONSISTENT",
    "RETIRED",
    "SETTLING",
    "SYNCING",
    "WAITING",
    "STOPPED",
    "UNKNOWN",
    "DETACHED",
    "DIVERGED",
)
"""The states of a secondary. The index of a state is its number in replica_state_number."""
