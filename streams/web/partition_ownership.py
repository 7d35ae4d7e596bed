"""Of which partitions this worker may answer, and who has the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from mirrorlog.errors import NodeUnavailable


class PartitionOwnership:
    """The partitions that are this worker's own and of which its table is whole: from recovery until the next rebalance.

    A standby's copy is neither. Whoever reads a table asks again and again whether his term still holds: Faust can't open a
    table again, when the partition comes back, before the last reader let go of it.

    owners: by partition, the address that its worker told the group (Faust's assignment carries it).
    """

    def __init__(self, owners: Callable[[], Mapping[int, str]] = dict) -> None:
        self._owners = owners
        self._partitions: frozenset[int] = frozenset()
        self._term = 0
        self._serves = False

    def begin(self, partitions: Iterable[int]) -> None:
        """Recovery is done: these partitions are this worker's."""
        self._partitions, self._serves = frozenset(partitions), True
        self._term += 1

    def end(self) -> None:
        """A rebalance begins."""
        self._partitions, self._serves = frozenset(), False
        self._term += 1

    @property
    def is_settled(self) -> bool:
        """Whether the worker is neither recovering nor in a rebalance."""
        return self._serves

    @property
    def partitions(self) -> list[int]:
        """Those that may be answered here."""
        return sorted(self._partitions)

    def owners(self) -> dict[int, str]:
        """By partition, the address of the worker that has it, as the group knows it; without those that don't listen."""
        return {
            number: url
            for number, url in self._owners().items()
            if url.startswith(("http://", "https://"))
        }

    def term(self, partition: int) -> Callable[[], None] | None:
        """A check that raises NodeUnavailable once the partition may have moved; None where it isn't answered here."""
        if partition not in self._partitions:
            return None
        began = self._term

        def check() -> None:
            if self._term != began:
                raise NodeUnavailable(
                    "the partition is being moved to another worker",
                    where=f"partition {partition}",
                    next="Ask again in a moment.",
                )

        return check
