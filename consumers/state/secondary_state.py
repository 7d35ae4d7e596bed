"""The state of one secondary that a site knows, its identity, and the port that keeps them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import check_volume_name

MAX_SAMPLES: Final = 64
"""How many samples a state holds at most: a state is one small file."""
MAX_SAMPLE_BYTES: Final = 64 << 10
"""The largest sample. A site reads all samples of a secondary when it starts: 4 MiB at most."""
_DIGEST: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondaryIdentity:
    """What tells a secondary, and its primary, from all others, as its site met them last.

    secondary_id, epoch: those of the mark (SecondaryMark). The state is saved after the mark.
    size_bytes: of the secondary.
    lasting: of the secondary's device (DeviceIdentity); None if the device tells nothing of itself.
    primary: the same of the primary that blocks were read from last; None if none was read.

    Raise ValueError for values that no identity has.
    """

    secondary_id: str
    epoch: int
    size_bytes: int
    lasting: str | None
    primary: str | None = None

    def __post_init__(self) -> None:
        if str(UUID(self.secondary_id)) != self.secondary_id:
            raise ValueError(f"'{self.secondary_id}' isn't a UUID in canonical form")
        for name in ("epoch", "size_bytes"):
            _check_number(name, getattr(self, name), 0)
            if getattr(self, name) is None:
                raise ValueError(f"{name} is missing")
        for text in (self.lasting, self.primary):
            if text is not None and not isinstance(text, str):
                raise ValueError(f"'{text}' isn't a device's identity")


@dataclass(frozen=True, slots=True)
class Sample:
    """A range of the secondary as the site wrote it last.

    digest: of its bytes, 16 bytes in hexadecimal (consumers/resync/samples.py).
    """

    offset: int
    length: int
    digest: str

    def __post_init__(self) -> None:
        _check_number("offset", self.offset, 0)
        _check_number("length", self.length, 1)
        if self.length > MAX_SAMPLE_BYTES or not _DIGEST.fullmatch(self.digest):
            raise ValueError(f"a sample of {self.length} bytes, or its digest, is impossible")


@dataclass(frozen=True, slots=True)
class CommonPoint:
    """A moment at which all members of a consistency group were read.

    id: a canonical UUID, the same for all members. position: of this volume at that moment.
    at_us: a time by the site's clock, in microseconds since 1970: every write that was acknowledged
    before it is in the members. None if nobody knows one.
    """

    id: str
    position: int
    at_us: int | None = None

    def __post_init__(self) -> None:
        if str(UUID(self.id)) != self.id:
            raise ValueError(f"'{self.id}' isn't a UUID in canonical form")
        _check_number("position", self.position, BEFORE_FIRST)
        _check_number("at_us", self.at_us, 0)


@dataclass(frozen=True, slots=True)
class SecondaryState:
    """One secondary, as its site knows it.

    Positions are those of the volume's partition, from BEFORE_FIRST on.

    generation: the volume's history (a canonical UUID) to which all positions here belong.
    applied_position: the secondary holds every change up to it, durably; None: it was never in
        sync.
    suspect_after: the blocks that the site read for (suspect_after, applied_position] came from a
        moving primary and aren't proved consistent yet; None: all blocks are proved.
    changed_through: all blocks that changed in (suspect_after, changed_through] may have been read
        and are unproved; above it those that the secondary had missed. None: only those that it had
        missed (docs/decisions/forked-writes.md).
    cycle_through: a cycle that applies the log up to it is running, so the secondary is
        inconsistent; None: no cycle runs.
    consistent_position: the secondary equals the primary as of it; None: it equals the primary as
        of no position.
    rung: how the running cycle, or the last one, chose its blocks; None: there was no cycle.
    updated_at_us: microseconds since 1970 (UTC), for people.
    identity: what the secondary was when it was met last; None in a state of an older release.
    samples: ranges that cycles wrote and that nothing has changed up to applied_position.
    history_id: the history of the partition (a canonical UUID) in which all positions here were
        taken; None if it isn't known.
    anchor: the digest of the command at known_position, 16 bytes in hexadecimal
        (histories.anchor_of); None if it isn't known.
    copied_bytes: of a copy of everything that isn't finished: below this byte the secondary holds,
        durably, what the primary held at cycle_through or later; None: nothing is known of it.
    common_point: of the last cycle of the volume's group. It counts only as long as the secondary
        is consistent at its position (common_point_id).

    Raise BadUse for a volume name that is none, and ValueError for values that contradict each
    other: above all for a state that claims consistency while a cycle runs or while blocks are
    unproved (invariant 8).
    """

    volume: str
    generation: str
    applied_position: int | None = None
    suspect_after: int | None = None
    cycle_through: int | None = None
    consistent_position: int | None = None
    rung: Rung | None = None
    updated_at_us: int = 0
    changed_through: int | None = None
    identity: SecondaryIdentity | None = None
    samples: tuple[Sample, ...] = ()
    history_id: str | None = None
    anchor: str | None = None
    copied_bytes: int | None = None
    common_point: CommonPoint | None = None

    @property
    def common_point_id(self) -> str | None:
        """The id of the common point at which the secondary is; None if it is at none.

        The members of a group are consistent with each other if they have the same one.
        """
        point = self.common_point
        is_there = point is not None and point.position == self.consistent_position
        return point.id if is_there and point is not None else None

    @property
    def known_position(self) -> int | None:
        """The position above which the log names all that may differ from what the state knows.

        It is applied_position, or cycle_through of a copy of everything that can go on; None if
        nothing is known.
        """
        if self.applied_position is None and self.copied_bytes is not None:
            return self.cycle_through
        return self.applied_position

    @property
    def is_unproved_copy(self) -> bool:
        """Whether the last cycle copied everything, and isn't proved: any block may be unproved."""
        return self.suspect_after is not None and self.rung is not Rung.CHANGED

    def __post_init__(self) -> None:
        check_volume_name(self.volume)
        if self.history_id is not None and str(UUID(self.history_id)) != self.history_id:
            raise ValueError(f"'{self.history_id}' isn't a UUID in canonical form")
        if self.anchor is not None and not _DIGEST.fullmatch(self.anchor):
            raise ValueError(f"'{self.anchor}' isn't a digest")
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
        _check_number("copied_bytes", self.copied_bytes, 1)
        if self.rung is not None:
            object.__setattr__(self, "rung", Rung(self.rung))  # ValueError if it is no rung
        if len(self.samples) > MAX_SAMPLES:
            raise ValueError(f"{len(self.samples)} samples are more than {MAX_SAMPLES}")
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        applied = self.applied_position
        for name in ("suspect_after", "consistent_position"):
            position = getattr(self, name)
            if position is not None and (applied is None or position > applied):
                raise ValueError(f"{name} {position} reaches past applied_position {applied}")
        if self.anchor is not None and self.known_position is None:
            raise ValueError("an anchor without a position")
        if self.consistent_position is not None and (
            self.cycle_through is not None or self.suspect_after is not None
        ):
            raise ValueError(
                "a secondary with a running cycle or with unproved blocks "
                "is consistent at no position"
            )
        if self.changed_through is not None and self.suspect_after is None:
            raise ValueError("changed_through is set, but all blocks are proved")
        if self.copied_bytes is not None and (
            self.cycle_through is None or applied is not None or self.rung is Rung.CHANGED
        ):
            raise ValueError("copied_bytes is set, but no copy of everything runs")
        if self.cycle_through is None:
            return
        if self.rung is None or (applied is not None and self.cycle_through < applied):
            raise ValueError(
                f"a cycle from {applied} through {self.cycle_through} by the rung {self.rung} "
                "is impossible"
            )


def _check_number(name: str, value: object, least: int) -> None:
    if value is not None and (
        not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63
    ):
        raise ValueError(f"{name} can't be '{value}'")


class SecondaryStateStore(Protocol):
    """Keeps one state per volume, next to the secondaries. A volume has one writer at a time."""

    def load(self, volume: str) -> SecondaryState | None:
        """Return the state that was saved last; None if none ever was.

        Raise StateDamaged unless every bit of it can be trusted. A state is never guessed: the
        answer to damage is a resync by the rung "full". Raise DeviceFailed if it can't be read.
        """
        ...

    def save(self, state: SecondaryState) -> None:
        """Save a state durably, in place of the last one of its volume.

        After a crash or an error at any point, load() returns the old state or the new one, whole.
        Raise DeviceFailed if it can't be written.
        """
        ...

    def save_all(self, states: Sequence[SecondaryState]) -> None:
        """Save states as save() does, but with fewer waits for the disk.

        After a crash or an error, load() returns the old state or the new one for each volume,
        each whole.
        """
        ...
