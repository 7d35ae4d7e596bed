"""One host at a time writes to a volume that isn't shared (docs/decisions/host-fence.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from shlex import quote
from typing import Final, TypeAlias

from mirrorlog.domain.commands import LEFT_OUT_SESSIONS, is_imported_host
from mirrorlog.domain.positions import OPENED_EARLIER
from mirrorlog.domain.promotions import Promotion
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse
from mirrorlog.reading.open_sessions import OpenSession

FindOpen: TypeAlias = Callable[[Mapping[str, int]], list[OpenSession]]
"""Finds the sessions that are open on volumes, and were opened before positions (by volume)."""
_SHOWN: Final = 3


def find_other_sessions(
    open_positions: Mapping[str, int],
    volumes: Mapping[str, Volume],
    *,
    own_sessions: Mapping[str, Collection[str]],
    find_open: FindOpen,
) -> list[OpenSession]:
    """Return the sessions of other hosts that may write to one of the volumes.

    Shared volumes are left out, and so are imports: an import writes nothing to the primary.

    open_positions: by volume, the position of this session's SESSION_OPEN.
    own_sessions: by volume, the sessions that this host's state folder names. The folder is locked,
        so each of them is this session or dead.
    """
    positions = {
        name: position for name, position in open_positions.items() if not volumes[name].shared
    }
    sessions = find_open(positions) if positions else []
    return [
        session
        for session in sessions
        if session.session not in own_sessions[session.volume]
        and not is_imported_host(session.host)
    ]


def other_hosts_error(others: Collection[OpenSession]) -> BadUse:
    """Return an error that says who has the volumes open, since when, and what to do."""
    shown = list(others)[:_SHOWN]
    sessions = "; ".join(_described(other) for other in shown)
    more = f"; and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    options = " ".join(f"--take-over {quote(other.session)}" for other in shown)
    return BadUse(
        f"another host may be writing to the volume: {sessions}{more}",
        where=", ".join(sorted({f"volume {other.volume}" for other in others})[:_SHOWN]),
        next="Stop it there. If it died, start it again with its own name and state folder: it "
        "publishes what it left unpublished, and ends its old session. Only if it is gone for "
        f"good: {options}, and the whole volume counts as dirty. Two hosts at once need a volume "
        "that is `shared`, and a file system that is made for it.",
    )


def taken_over_error(volume: str, session: str) -> BadInput:
    """Return the error for writes of a session from which the volume was taken over."""
    return BadInput(
        f"the volume was taken over from this session, {session}: no write to it begins any more",
        where=f"volume {volume}",
        next="Another host has it. What this one wrote since then is recorded, but its primary may "
        "be another one. End this host, and use the volume where it was moved to.",
    )


def promoted_error(volume: str, promotion: Promotion) -> BadInput:
    """Return the error for writes to a copy that isn't the volume's primary any more."""
    return BadInput(
        f"the secondary of site {promotion.site} is the primary since position "
        f"{promotion.position}: no write to the former one begins any more",
        where=f"volume {volume}",
        next="End this host. What it wrote is recorded, and `mirrorlog divergence "
        f"{volume}` lists it. `mirrorlog rejoin` lets this copy follow the new primary.",
    )


def other_primary_error(volume: Volume) -> BadInput:
    """Return the error for writes to a copy, if the description names another one's mark.

    volume: by its newest description.
    """
    return BadInput(
        f"another copy is the primary now, at {volume.primary}: no write to this one begins any "
        "more",
        where=f"volume {volume.volume}",
        next=f"End this host. What it wrote is recorded. `mirrorlog rejoin {volume.volume}` lets "
        "this copy follow the primary.",
    )


def former_primary_error(volume: Volume) -> BadUse:
    """Return the error for a host that is to open a copy that may not be the primary."""
    where = f"site {volume.primary_site}" if volume.primary_site else "another place"
    return BadUse(
        f"this isn't the volume's primary: that one is a copy which was promoted at {where}, and "
        "the mark of this one says otherwise",
        where=f"volume {volume.volume}; its primary is {volume.primary}",
        next=f"Serve it there. `mirrorlog rejoin {volume.volume}` lets a former primary follow it. "
        f"If this is the right one, and only its mark is lost: `mirrorlog volume move "
        f"{volume.volume}`, and all of it counts as dirty.",
    )


def _described(other: OpenSession) -> str:
    if other.session == LEFT_OUT_SESSIONS:
        return f"sessions that were too many to be named, since position {other.opened_position}"
    since = f"position {other.opened_position}"
    if other.opened_position == OPENED_EARLIER:
        since = "before the log's history was renewed"
    if other.opened_at_us:
        since = f"{_time(other.opened_at_us)} ({since})"
    return (
        f"host '{other.host}', session {other.session}, since {since}, "
        f"last heard of at {_time(other.last_at_us)}"
    )


def _time(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
