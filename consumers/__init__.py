"""The remote side: sites keep secondaries up to date, and others read what sites read.

`run_site` runs a site in this process, without the command line, and `run_worker` one of several
workers of a site. Importing this package imports nothing else.

In reading order:

- wiring.py: puts a site together from the settings, and runs it
- worker_wiring.py: puts one of several workers of a site together
- open_ports.py: opens the ports of a site
- mirrored_log.py: the ports of a site that reads a mirror of the log
- resync/: a site's secondaries, and the cycles that bring them up to date
- workers/: several workers of one site share its volumes
- journal_recovery.py: applies the sealed journals of a site, without Kafka
- site_journals.py: the same for the journals in a site's folder
- site_metrics.py: the metrics of a site
- worker_metrics.py: the metrics of one of its workers
- site_removal.py: removes a site that will never return
- name_fence.py: one process at a time runs a site
- site_addresses.py: where a site reaches primaries and keeps secondaries
- site_devices.py: the primaries and secondaries of a site, by their addresses
- site_primaries.py: primaries, for reading
- group_snapshots.py: snapshots of several primaries at one moment
- secondary_files.py: secondaries as files and block devices of this machine
- range_reads.py: reads batches of ranges to memory from any device, and makes ranges zeros
- secondary_exports.py: secondaries that are NBD exports
- kept_exports.py: connections to NBD exports that outlast a cycle
- journal/: the redo journal, in which a cycle is staged and then applied as a whole
- failover/: a site's secondary becomes the primary, and the former primary a secondary
- state/: what a site saves of each secondary, durably
- audit/: who wrote what, where and when?
- verify/: does a secondary equal its primary?
- file_names/: which files do the blocks of a volume belong to?
- dashboard/: a web page that shows every volume at every site
- sql/: questions in SQL over archive and topic
- archive/: writes history to Parquet files, before Kafka drops it
- drills/: a secondary, served as of a consistent position
- backup/: points in time of a volume, kept apart from it
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirrorlog.consumers.wiring import run_site
    from mirrorlog.consumers.worker_wiring import run_worker

__all__ = ["run_site", "run_worker"]


def __getattr__(name: str) -> Any:
    """Import `run_site` or `run_worker` on its first use (PEP 562)."""
    if name == "run_site":
        from mirrorlog.consumers.wiring import run_site

        return run_site
    if name == "run_worker":
        from mirrorlog.consumers.worker_wiring import run_worker

        return run_worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
