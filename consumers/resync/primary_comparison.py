"""The port to whatever compares a secondary with its primary without reading the primary here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice


class PrimaryComparison(Protocol):
    """Compares by digests: those of the primary are computed beside it."""

    def differing(
        self,
        volume: Volume,
        secondary: BlockDevice,
        ranges: Sequence[tuple[int, int]],
        *,
        on_wait: Callable[[], None],
    ) -> Sequence[bool]:
        """Return for each range (offset, length) whether both sides may differ in it.

        False proves that both held the same bytes at some time after the call. on_wait is called
        while it waits, and what it raises ends the comparison. Raise DeviceFailed if nobody
        answers.
        """
        ...
