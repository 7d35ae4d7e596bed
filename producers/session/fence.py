"""One host at a time writes to a volume that isn't shared (docs/decisions/host-fence.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Final

from mirrorlog.domain.commands import IMPORTED
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.reading.open_sessions import OpenSession

AskOpen = Callable[[Mapping[str, int]], list[OpenSession]]
"""The sessions that are open on volumes, and began before these positions."""
_SHOWN: Final = 3


def others_open(
    openings: Mapping[str, int],
    volumes: Mapping[str, Volume],
    mine: Mapping[str, Collection[str]],
    ask: AskOpen,
) -> list[OpenSession]:
    """Sessions of other hosts that may write to one of the volumes.

    openings: by volume, the position of this session's SESSION_OPEN. mine: by volume, sessions that this host's state folder
    knows; it is locked, so they are this one, or dead. An import writes nothing to the primary.
    """
    wanted = {name: position for name, position in openings.items() if not volumes[name].shared}
    found = ask(wanted) if wanted else []
    return [
        each
        for each in found
        if each.session not in mine[each.volume] and not each.host.startswith(IMPORTED)
    ]


def refusal(others: Collection[OpenSession]) -> BadUse:
    """Who has it open, since when, and what to do."""
    shown = "; ".join(_told(each) for each in list(others)[:_SHOWN])
    more = f"; and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    taken = " ".join(f"--take-over {each.session}" for each in list(others)[:_SHOWN])
    return BadUse(
        f"another host may be writing to the volume: {shown}{more}",
        where=", ".join(sorted({f"volume {each.volume}" for each in others})[:_SHOWN]),
        next="Stop it there. If it died, start it again with its own name and state folder: it publishes what it owes and "
        f"ends its old session. Only if it is gone for good: {taken}, and the whole volume counts as dirty. "
        "Two hosts at once need a volume that is `shared`, and a file system that is made for it.",
    )


def _told(other: OpenSession) -> str:
    since = f"position {other.opened_position}"
    if other.opened_at_us:
        since = f"{_time(other.opened_at_us)} ({since})"
    return f"host '{other.host}', session {other.session}, since {since}, last heard of at {_time(other.last_at_us)}"


def _time(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
