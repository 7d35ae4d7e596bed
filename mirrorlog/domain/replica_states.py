"""The states of a secondary as people see them. Pure.

A site publishes a SiteState and its facts (SiteProgress). What people see follows from these when a
report is read. So a report of an older release reads as any other, and nothing is published twice.
The first row that fits counts:

| state      | published         | if                                 | meaning, and what to do    |
|------------|-------------------|------------------------------------|----------------------------|
| DETACHED   | DETACHED, RETIRED |                                    | The site keeps off it: it  |
|            |                   |                                    | is the primary now, or its |
|            |                   |                                    | volume is retired.         |
| DIVERGED   | DIVERGED          |                                    | It was the primary before  |
|            |                   |                                    | a promotion. Rejoin it.    |
| STOPPED    | STOPPED           |                                    | An error, or an operator   |
|            |                   |                                    | paused it: `next_action`.  |
| GAP        | SYNCING           | a rung above `changed`, and it     | The log doesn't lead to it |
|            |                   | isn't a first copy                 | any more. All is copied.   |
| INITIAL    | WAITING, SYNCING  | nothing is applied yet             | The first copy. Wait.      |
| RESYNCING  | SYNCING           |                                    | A cycle runs: it equals    |
|            |                   |                                    | the primary at no position.|
| SETTLING   | SETTLING, WAITING |                                    | Applied, not proved yet.   |
| BEHIND     | CONSISTENT        | the log names what it lacks        | Consistent at its position |
|            |                   |                                    | and copies what is newer.  |
| CONSISTENT | CONSISTENT        |                                    | Equal as of its position,  |
|            |                   |                                    | and nothing is newer.      |
| UNKNOWN    | UNKNOWN           |                                    | The site is of a newer     |
|            |                   |                                    | release. Upgrade.          |

Rules:
- A site moves a secondary from one published state to another by consumers/resync/cycle.py alone,
  and publishes each change with its reason and what an operator can do.
- CONSISTENT and BEHIND alone mean that it equals the primary as of a position. A promotion without
  --force asks for that position, not for the state: a STOPPED one may have it, too.
- RESYNCING, GAP and INITIAL carry what is done and left, the rate, and when it will end.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState

NOTHING_KNOWN: Final = "nothing is known of the secondary's contents"
FIRST_COPY: Final = "the initial copy wasn't finished"
"""The reasons of a first copy begin with one of these two."""


class ReplicaState(StrEnum):
    """The state of a secondary as people see it."""

    INITIAL = "INITIAL"
    CONSISTENT = "CONSISTENT"
    BEHIND = "BEHIND"
    RESYNCING = "RESYNCING"
    SETTLING = "SETTLING"
    STOPPED = "STOPPED"
    DIVERGED = "DIVERGED"
    GAP = "GAP"
    DETACHED = "DETACHED"
    UNKNOWN = "UNKNOWN"


_PLAIN: Final[Mapping[SiteState, ReplicaState]] = {
    SiteState.DETACHED: ReplicaState.DETACHED,
    SiteState.RETIRED: ReplicaState.DETACHED,
    SiteState.DIVERGED: ReplicaState.DIVERGED,
    SiteState.STOPPED: ReplicaState.STOPPED,
    SiteState.SETTLING: ReplicaState.SETTLING,
    SiteState.UNKNOWN: ReplicaState.UNKNOWN,
}


def replica_state(
    state: SiteState,
    *,
    applied_position: int | None,
    rung: Rung | None,
    reason: str | None,
    behind_blocks: int | None,
) -> ReplicaState:
    """Return what people see of a secondary. The arguments are the fields of SiteProgress."""
    if state in _PLAIN:
        return _PLAIN[state]
    if state is SiteState.CONSISTENT:
        return ReplicaState.BEHIND if behind_blocks else ReplicaState.CONSISTENT
    is_whole = state is SiteState.SYNCING and rung in (Rung.ALLOCATED, Rung.FULL)
    if is_whole and reason and not reason.startswith((NOTHING_KNOWN, FIRST_COPY)):
        return ReplicaState.GAP
    if applied_position is None:
        return ReplicaState.INITIAL
    return ReplicaState.RESYNCING if state is SiteState.SYNCING else ReplicaState.SETTLING


def state_of_report(report: SiteProgress) -> ReplicaState:
    """Return what people see of the secondary that a report is about."""
    return replica_state(
        report.state,
        applied_position=report.applied_position,
        rung=report.rung,
        reason=report.reason,
        behind_blocks=report.behind_blocks,
    )
