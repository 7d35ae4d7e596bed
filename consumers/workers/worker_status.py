"""WorkerStatus: what one of several workers of a site does, for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """What one of several workers does.

    slot: of this worker. workers: how many live. partitions: those that it has locked.
    partition_count: how many there are. volumes: of its partitions, by name.
    """

    slot: int
    workers: int
    partitions: tuple[int, ...]
    partition_count: int
    volumes: frozenset[str]


OnShare: TypeAlias = Callable[[WorkerStatus], None]
"""Takes what a worker does, whenever its partitions or the number of workers have changed."""


def ignore_share(status: WorkerStatus) -> None:
    """Do nothing: an OnShare for those who don't want to know."""
    del status
