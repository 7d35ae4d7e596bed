"""The port to the share of a site's partitions for which this process works.

`WholeSite` is the share of a site in one process. consumers/workers/worker_share.py has that of one
worker among several.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class PartitionShare(Protocol):
    """The partitions that this process has locked. One thread calls it, but for is_held()."""

    def is_held(self, partition: int) -> bool:
        """Return whether this process works for the partition. Any thread may call it."""
        ...

    def surplus(self) -> frozenset[int]:
        """Return the partitions that are locked, and that another worker is to have.

        It may be called often: it looks whether other workers came or went about once a second.
        Raise DeviceFailed if the site's folder can't be read.
        """
        ...

    def give_back(self, partitions: Collection[int]) -> None:
        """Unlock partitions. Nothing of them is open, or on its way to a topic."""
        ...

    def take(self) -> frozenset[int]:
        """Lock what is free of the share. Return the partitions that weren't locked before."""
        ...


class WholeSite:
    """The share of the one process of a site: all partitions."""

    def is_held(self, partition: int) -> bool:
        """Return True."""
        del partition
        return True

    def surplus(self) -> frozenset[int]:
        """Return none."""
        return frozenset()

    def give_back(self, partitions: Collection[int]) -> None:
        """Do nothing."""

    def take(self) -> frozenset[int]:
        """Return none: the log is read from the start of the process."""
        return frozenset()
