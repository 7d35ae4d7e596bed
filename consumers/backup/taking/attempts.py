"""When a point that failed is begun again, and with what. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

_MOST_ATTEMPTS: Final = 4


class AttemptEnd(StrEnum):
    """Why an attempt ended without a point, where another one may do better."""

    SOURCE_CHANGED = "source changed"  # the volume got another size, generation or history
    SOURCE_BROKE = "source broke"  # reading failed: a snapshot was given up, for example
    BASE_DAMAGED = "base damaged"  # an image on which the new one was to stand is damaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt to take a point.

    number: from 1 on. uses_base: the new image may stand on an earlier one. uses_snapshots: the
    primary may be read from a snapshot of its host.
    """

    number: int = 1
    uses_base: bool = True
    uses_snapshots: bool = True


def next_attempt(attempt: Attempt, end: AttemptEnd) -> Attempt | None:
    """Return the attempt that follows one that ended so; None: give up.

    Every attempt but one after a change of the source lacks what the one before failed of.
    """
    following = replace(attempt, number=attempt.number + 1)
    if following.number > _MOST_ATTEMPTS:
        return None
    if end is AttemptEnd.SOURCE_BROKE:
        return replace(following, uses_snapshots=False) if attempt.uses_snapshots else None
    if end is AttemptEnd.BASE_DAMAGED:
        return replace(following, uses_base=False) if attempt.uses_base else None
    return following
