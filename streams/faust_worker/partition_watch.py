"""Finds partitions of the commands topic on which the worker is stuck (pure).

Faust's own watch isn't used. It takes the changelog's partitions for ones that a stream reads, and
reports each of them once a second, for ever, when the worker is five minutes old. It also compares
the time of the last fetch, which is of the wall clock, with a monotonic time, so it never finds a
partition that isn't fetched (faust-streaming 0.15.3, AIOKafkaConsumerThread.verify_event_path).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from mirrorlog.units import format_duration

_STEPS: Final = ("fetch", "record", "commit")


@dataclass(frozen=True, slots=True)
class PartitionView:
    """What the worker knows of one of its partitions.

    fetch_mark: has another value after each answer to a fetch.
    handed_on: the last position that was handed on since the last seek; None for none.
    recorded: the first position that the log doesn't hold.
    committed: the first position that the group hasn't committed.
    """

    fetch_mark: Hashable
    handed_on: int | None
    recorded: int
    committed: int

    def progress(self) -> dict[str, Hashable]:
        """Return by step a value that changes whenever the step makes progress."""
        return {"fetch": self.fetch_mark, "record": self.recorded, "commit": self.committed}

    def is_waiting(self, step: str) -> bool:
        """Return whether there is something for the step to do.

        A fetch is always under way: the broker answers it after a while, also without commands.
        """
        if step == "record":
            return self.handed_on is not None and self.handed_on >= self.recorded
        if step == "commit":
            return self.committed < self.recorded
        return not self.is_waiting("record")


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a partition finds.

    stuck: what is stuck; None if nothing is, or if that isn't known yet.
    is_well: each step made progress since the last look, or had nothing to do.
    """

    stuck: str | None
    is_well: bool


@dataclass(slots=True)
class _Watched:
    """The last view of a partition, and when each step last made progress or had nothing to do."""

    view: PartitionView
    looked_at_s: float
    moved_at_s: dict[str, float] = field(default_factory=dict)


class PartitionWatch:
    """Compares each look at a partition with the one before.

    patience_s: a step that has work to do and makes no progress for so long is stuck.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._watched: dict[int, _Watched] = {}

    def clear(self) -> None:
        """Forget all partitions: the worker seeks to other positions, or gets other partitions."""
        self._watched.clear()

    def look(self, partition: int, view: PartitionView, *, now_s: float) -> Look:
        """Look at a partition. Call it often: several times within the patience."""
        known = self._watched.get(partition)
        if known is None or now_s - known.looked_at_s > self._patience_s / 2:
            # Nobody has looked for a while, as in a process that was stopped: begin again.
            self._watched[partition] = _Watched(view, now_s, dict.fromkeys(_STEPS, now_s))
            return Look(None, is_well=False)
        before, after = known.view.progress(), view.progress()
        for step in _STEPS:
            if before[step] != after[step] or not view.is_waiting(step):
                known.moved_at_s[step] = now_s
        known.view, known.looked_at_s = view, now_s
        for step in _STEPS:
            if now_s - known.moved_at_s[step] >= self._patience_s:
                return Look(self._describe(step, view), is_well=False)
        return Look(None, is_well=min(known.moved_at_s.values()) == now_s)

    def _describe(self, step: str, view: PartitionView) -> str:
        patience = format_duration(self._patience_s)
        if step == "fetch":
            return f"no fetch of its commands has been answered for {patience}"
        if step == "record":
            return (
                f"the command at position {view.recorded} is fetched, and the log doesn't hold it "
                f"after {patience}"
            )
        return (
            f"the log holds more commands than those before position {view.committed}, and no "
            f"offset has been committed for {patience}"
        )
