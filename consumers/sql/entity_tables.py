"""Volumes, secondaries of sites and records of the log as tables (pyarrow.Table)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.extras import require_module
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.tiers import TIERS

_VOLUMES: Final = {
    "volume": "string",
    "generation": "string",
    "size_bytes": "uint64",
    "block_size": "uint64",
    "partition": "int32",
    "origin_position": "int64",
    "state": "string",
    "primary": "string",
    "group": "string",
    "created_at_us": "int64",
    "history_epoch": "int32",
}
_SITES: Final = {
    "site": "string",
    "volume": "string",
    "state": "string",
    "rung": "string",
    "applied_position": "int64",
    "consistent_position": "int64",
    "watermark": "int64",
    "behind_bytes": "uint64",
    "lag_s": "float64",
    "reported_at_us": "int64",
    "reason": "string",
}
_RECORDS: Final = {
    "volume": "string",
    "generation": "string",
    "tier": "string",
    "after": "int64",
    "through": "int64",
    "block_size": "uint64",
    "blocks": "uint64",
    "zeroed_blocks": "uint64",
    "first_at_us": "int64",
    "last_at_us": "int64",
    "commands": "int64",
    "writes": "int64",
    "bytes_written": "int64",
    "hosts": "string",
}


def volumes_table(volumes: Iterable[Volume]) -> Any:
    """Return the descriptions of volumes."""
    rows = [
        {
            **{name: getattr(volume, name) for name in list(_VOLUMES)[:6]},
            "state": str(volume.state),
            "primary": volume.primary,
            "group": volume.group,
            "created_at_us": volume.created_at_us,
            "history_epoch": volume.epoch,
        }
        for volume in volumes
    ]
    return _table(_VOLUMES, rows)


def sites_table(reports: Iterable[SiteProgress]) -> Any:
    """Return the last reports of secondaries."""
    rows = [
        {
            "site": report.site,
            "volume": report.volume,
            "state": str(report.state),
            "rung": None if report.rung is None else str(report.rung),
            "applied_position": report.applied_position,
            "consistent_position": report.consistent_position,
            "watermark": report.watermark,
            "behind_bytes": report.behind_bytes,
            "lag_s": report.lag_s,
            "reported_at_us": report.at_us,
            "reason": report.reason,
        }
        for report in reports
    ]
    return _table(_SITES, rows)


def records_table(records: Iterable[LogRecord]) -> Any:
    """Return records of the log: which positions they cover, and how much changed."""
    rows = [
        {
            "volume": record.volume,
            "generation": record.generation,
            "tier": TIERS[record.tier],
            "after": record.after,
            "through": record.through,
            "block_size": record.block_size,
            "blocks": len(record.changed),
            "zeroed_blocks": len(record.zeroed),
            "first_at_us": record.first_at_us,
            "last_at_us": record.last_at_us,
            "commands": record.commands,
            "writes": record.writes,
            "bytes_written": record.bytes_written,
            "hosts": ", ".join(record.hosts),
        }
        for record in records
    ]
    return _table(_RECORDS, rows)


def _table(types: dict[str, str], rows: list[dict[str, Any]]) -> Any:
    pa = require_module("pyarrow", extra="archive", purpose="`mirrorlog sql`")
    names = {"float64": pa.float64}
    schema = pa.schema(
        [(name, names.get(kind, getattr(pa, kind))()) for name, kind in types.items()]
    )
    return pa.Table.from_pylist(rows, schema)
