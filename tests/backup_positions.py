"""Positions of points, for tests of backups."""

from __future__ import annotations

from notation import GENERATION

from mirrorlog.consumers.backup.sources.source_point import BackupPosition


def at(position: int, **more: object) -> BackupPosition:
    """Return a position as of which a point is consistent, of a history that nobody knows."""
    fields = {"generation": GENERATION, "history_id": None, "anchor": None, "is_consistent": True}
    return BackupPosition(position=position, **(fields | more))  # type: ignore[arg-type]
