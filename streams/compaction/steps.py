"""The steps of a compaction job: what it tells the compactor to write, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from mirrorlog.streams.table.local_store import Row


@dataclass(frozen=True, slots=True)
class WatermarkDue:
    """The partition's watermark is to be written again, after every row before this step."""


Step: TypeAlias = Row | WatermarkDue | None
"""A row to write, or WatermarkDue. None: a little work was done and there is nothing to write."""
Job: TypeAlias = Iterator[Step]
"""A job of one partition as its steps. Between two steps flushes of the partition may happen."""
