"""Removes the points of a volume that no rule keeps."""

from __future__ import annotations

from mirrorlog.consumers.backup.repository.catalog import VolumeCatalog
from mirrorlog.consumers.backup.repository.keep import (
    DatedPoint,
    KeepDecision,
    KeepRules,
    decide_kept,
)
from mirrorlog.consumers.backup.repository.prune import PruneReport, prune_volume
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import open_writer


def decide_points(catalog: VolumeCatalog, rules: KeepRules) -> tuple[KeepDecision, ...]:
    """Return what becomes of each point of a volume, newest first. Days begin in UTC.

    The point that was written last is kept in any case: what is registered of the log is its
    position.
    """
    dated = [DatedPoint(record.point, record.manifest.time_us) for record in catalog.points]
    newest = catalog.newest
    return tuple(
        KeepDecision(decision.point, ("newest",))
        if newest is not None and decision.point == newest.point and not decision.is_kept
        else decision
        for decision in decide_kept(dated, rules)
    )


def prune_by_rules(repository: Repository, volume: str, rules: KeepRules) -> PruneReport:
    """Remove the points that no rule keeps, as prune_volume() does.

    Raise BadUse if there is another writer.
    """
    with open_writer(repository, f"prune of {volume}") as writer:
        decisions = decide_points(repository.catalog(volume), rules)
        drop = {decision.point for decision in decisions if not decision.is_kept}
        return prune_volume(writer, volume, drop)
