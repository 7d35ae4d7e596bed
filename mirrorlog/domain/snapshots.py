"""Snapshots of a primary over NBD: the names of their exports, and what an export says of itself.

A host that serves a volume says so in the description of its export (NBD_INFO_DESCRIPTION). A
client that opens an export with a name of snapshot_export() gets the primary as of one position,
which is in the description of that export. docs/decisions/point-in-time-reads.md has the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, TypeAlias
from uuid import UUID

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import VOLUME_NAME

SNAPSHOT_EXPORT: Final = "mirrorlog-snapshot/"
"""The beginning of the name of a snapshot's export. A token of the client follows."""
HOLD_EXPORT: Final = "mirrorlog-hold/"
"""The beginning of the name of a hold's export. The token of its snapshot follows."""
_LIVE: Final = "mirrorlog-volume"
_HOLD: Final = "mirrorlog-hold"
_SNAPSHOT: Final = "mirrorlog-snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveExport:
    """The export of a primary that a host writes to. It has snapshots.

    session: of the host.
    """

    volume: str
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldExport:
    """The export of a snapshot that was taken, with no write beginning until its first flush.

    A flush lets writes begin, and fails if they began before it. So holds of several volumes whose
    flushes all succeed are of one moment (docs/decisions/consistency-groups.md). session: of the
    host.
    """

    volume: str
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotExport:
    """The export of a snapshot.

    Every write that the session began before the snapshot is named at or below `position`, and
    every later one above it.

    session: of the host. generation: of the volume. history_id: of the partition; None if the host
    doesn't know it. number: no two snapshots of a session have the same.
    """

    volume: str
    session: str
    generation: str
    history_id: str | None
    position: int
    number: int


ExportDescription: TypeAlias = LiveExport | HoldExport | SnapshotExport
_KINDS: Final[dict[type[ExportDescription], str]] = {
    LiveExport: _LIVE,
    HoldExport: _HOLD,
    SnapshotExport: _SNAPSHOT,
}


def snapshot_export(token: str) -> str:
    """Return the name of the export of a snapshot.

    Connections with the same token read the same snapshot, as long as one of them is open.

    token: at most 64 letters, digits and hyphens.
    """
    return SNAPSHOT_EXPORT + token


def hold_export(token: str) -> str:
    """Return the name of the export of a hold, whose snapshot has the same token.

    No other connection may have opened that snapshot before.
    """
    return HOLD_EXPORT + token


def describe(export: ExportDescription) -> str:
    """Return the description of an export."""
    kind = _KINDS[type(export)]
    values = ((field.name, getattr(export, field.name)) for field in fields(export))
    return " ".join([kind, *(f"{name}={'' if value is None else value}" for name, value in values)])


def parse_description(text: str | None) -> ExportDescription | None:
    """Parse the description of an export. Return None if no host of mirrorlog made it.

    A later release may say more: what isn't known is passed over.
    """
    kind, *parts = (text or "").split(" ")
    if kind not in _KINDS.values():
        return None
    given = dict(part.partition("=")[::2] for part in parts)
    try:
        volume, session = given["volume"], given["session"]
        if not VOLUME_NAME.fullmatch(volume) or not session:
            return None
        if kind == _LIVE:
            return LiveExport(volume=volume, session=session)
        if kind == _HOLD:
            return HoldExport(volume=volume, session=session)
        position, number = int(given["position"]), int(given["number"])
        if position <= BEFORE_FIRST or number < 0:
            return None
        return SnapshotExport(
            volume=volume,
            session=session,
            generation=str(UUID(given["generation"])),
            history_id=given["history_id"] or None,
            position=position,
            number=number,
        )
    except (KeyError, ValueError):
        return None
