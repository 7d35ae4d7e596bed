"""What a site knows about one secondary, and the port that keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import check_volume_name

RUNGS: Final = ("changed", "allocated", "full")
"""The rungs of a resync, from the cheapest to the one that trusts nothing."""


@dataclass(frozen=True, slots=True)
class SecondaryState:
    """One secondary, as its site knows it. Positions are those of the volume's partition, from BEFORE_FIRST on.

    generation:          the volume's history (canonical UUID) that all positions here belong to.
    applied_position:    the secondary holds every change up to it, durably; None: never in sync.
    suspect_after:       what changed in (suspect_after, applied_position] was read from a moving primary and isn't
                         proved consistent yet; None: nothing is suspect.
    changed_through:     of what is suspect, all that changed up to it may have been read, and behind it what the secondary
                         had missed; None: none but what it had missed (docs/decisions/forked-writes.md).
    cycle_through:       a cycle that applies up to it is running, so the secondary is inconsistent; None: none runs.
    consistent_position: the secondary equals the primary as of it; None: it equals the primary as of no position.
    rung:                of the running cycle, or of the last one; None: there was none.
    updated_at_us:       microseconds since 1970 (UTC), for people.

    Errors: BadUse for a volume name that can't be one; ValueError for values that contradict each other, above all for
    a state that claims consistency while a cycle runs or while blocks are suspect (invariant 8).
    """

    volume: str
    generation: str
    applied_position: int | None = None
    suspect_after: int | None = None
    cycle_through: int | None = None
    consistent_position: int | None = None
    rung: str | None = None
    updated_at_us: int = 0
    changed_through: int | None = None

    def __post_init__(self) -> None:
        check_volume_name(self.volume)
        if str(UUID(self.generation)) != self.generation:
            raise ValueError(f"'{self.generation}' isn't a UUID in canonical form")
        for name in (
            "applied_position",
            "suspect_after",
            "cycle_through",
            "consistent_position",
            "changed_through",
        ):
            _check_number(name, getattr(self, name), BEFORE_FIRST)
        _check_number("updated_at_us", self.updated_at_us, 0)
        if self.rung not in (None, *RUNGS):
            raise ValueError(f"'{self.rung}' is no rung")
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        applied = self.applied_position
        for name in ("suspect_after", "consistent_position"):
            position = getattr(self, name)
            if position is not None and (applied is None or position > applied):
                raise ValueError(f"{name} {position} reaches past applied_position {applied}")
        if self.consistent_position is not None and (
            self.cycle_through is not None or self.suspect_after is not None
        ):
            raise ValueError(
                "a secondary with a running cycle or with suspect blocks is consistent at no position"
            )
        if self.changed_through is not None and self.suspect_after is None:
            raise ValueError("nothing is suspect, so nothing of it was read")
        if self.cycle_through is None:
            return
        if self.rung is None or (applied is not None and self.cycle_through < applied):
            raise ValueError(
                f"a cycle from {applied} through {self.cycle_through} by the rung {self.rung} can't be"
            )


def _check_number(name: str, value: object, least: int) -> None:
    if value is not None and (
        not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63
    ):
        raise ValueError(f"{name} can't be {value!r}")


class SecondaryStateStore(Protocol):
    """Keeps one state per volume next to the secondaries. One writer per volume at a time."""

    def load(self, volume: str) -> SecondaryState | None:
        """The last state saved; None where none ever was.

        StateDamaged where what is kept can't be trusted in every bit: a state is never guessed, the answer is a resync
        by the rung "full". DeviceFailed where it can't be read.
        """
        ...

    def save(self, state: SecondaryState) -> None:
        """Durable when it returns. Cut off or failed anywhere, load() finds the old state or this one, whole.

        DeviceFailed where it can't be written.
        """
        ...

    def save_all(self, states: Sequence[SecondaryState]) -> None:
        """save() of each, for less: those of thousands of volumes share what makes them durable.

        Cut off or failed, some are the old states and some these, each whole.
        """
        ...
