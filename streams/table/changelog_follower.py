"""How a worker's tables follow the changelog: before it works on a partition, and all the time where it stands by.

Faust assigns partitions and standbys; what it does to bring their tables up to the changelog isn't used
(docs/decisions/recovery.md). For each partition:

1. Whether the table may be trusted: its rows came from this changelog, it isn't ahead of it, and the last row that it took
   is still there as it was, unless compaction took it. Otherwise it is made anew: what it holds beside the changelog no
   site would ever read (invariant 3).
2. Rows are read from the table's position on, and written in their order, with the position.
3. A partition to work on: when the table has reached the end that the changelog had, commands are folded.
   A standby: for ever, until the next rebalance.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.streams import Message, TopicReader
from mirrorlog.streams.table.local_store import FollowedStore

log = logging.getLogger("mirrorlog.node")

_ROWS_AT_ONCE: Final = 1000
_POLL_S: Final = 0.5
_AGAIN_S: Final = 5.0
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class ChangelogSource:
    """The changelog, asked. identity: the topic's own id, another one when it was made anew; bounds: of a partition, the
    oldest position kept and the one that the next message will have."""

    topic: str
    open_reader: Callable[[], TopicReader]
    bounds: Callable[[int], tuple[int, int]]
    identity: Callable[[], str]


def reason_to_rebuild(
    position: int | None, origin: str | None, identity: str, first: int, end: int
) -> str | None:
    """Why a table that is at `position` can't be gone on with; None where it can."""
    if position is None:
        return None
    if origin != identity:
        return "its rows came from another changelog"
    if position >= end:
        return f"it is at position {position}, and the changelog ends at {end}"
    if position < first:
        return f"it is at position {position}, and the changelog is kept from {first} on"
    return None


class _TableReset(Exception):
    """A table turned out to be of another history and was emptied: it is read from the beginning."""


class ChangelogFollower:
    """Reads the changelog into the tables. One call at a time for a partition."""

    def __init__(self, store: FollowedStore, changelog: ChangelogSource) -> None:
        self._store, self._changelog = store, changelog

    async def catch_up(self, partitions: Sequence[int]) -> None:
        """Returns when the tables hold all that the changelog held when it was called."""
        reached_end = not partitions
        while not reached_end:
            with suppress(_TableReset):
                async with self._reading(partitions) as (ends, poll, reached):
                    while any(reached(partition) < end for partition, end in ends.items()):
                        self._take(await poll())
                reached_end = True

    async def stand_by(self, partitions: Sequence[int]) -> None:
        """Follows until it is cancelled; what goes wrong is said, and tried again: it must not end who works."""
        while True:
            try:
                async with self._reading(partitions) as (_, poll, _reached):
                    while True:
                        self._take(await poll())
            except _TableReset:
                continue
            except MirrorlogError as error:
                log.warning("standing by for partitions %s: %s", sorted(partitions), error)
            await asyncio.sleep(_AGAIN_S)

    @asynccontextmanager
    async def _reading(
        self, partitions: Sequence[int]
    ) -> AsyncIterator[tuple[dict[int, int], Any, Any]]:
        changelog = self._changelog
        # One thread: a reader is never closed while it polls, also where this task is cancelled meanwhile.
        with_thread = ThreadPoolExecutor(1, "mirrorlog-changelog")

        async def ask(question: Callable[..., Answer], *given: Any) -> Answer:
            return await asyncio.get_running_loop().run_in_executor(with_thread, question, *given)

        reader: TopicReader | None = None
        try:
            identity = await ask(changelog.identity)
            bounds = {partition: await ask(changelog.bounds, partition) for partition in partitions}
            starts = {
                partition: self._start(partition, identity, *bounds[partition])
                for partition in partitions
            }
            reader = await ask(changelog.open_reader)
            await ask(reader.assign, changelog.topic, starts)
            taken = reader
            yield (
                {partition: end for partition, (_, end) in bounds.items()},
                lambda: ask(partial(taken.poll, _POLL_S, max_messages=_ROWS_AT_ONCE)),
                lambda partition: taken.reached(changelog.topic, partition),
            )
        finally:
            if reader is not None:
                with_thread.submit(reader.close)
            with_thread.shutdown(wait=False)

    def _start(self, partition: int, identity: str, first: int, end: int) -> int | None:
        """Where to read on; None: from the oldest row."""
        position, origin = (
            self._store.changelog_position(partition),
            self._store.changelog_identity(partition),
        )
        why = reason_to_rebuild(position, origin, identity, first, end)
        if why is not None or position is None:
            self._make_anew(partition, identity, why)
            return None
        return position

    def _make_anew(self, partition: int, origin: str, why: str | None) -> None:
        if why is not None:
            log.warning(
                "the table of partition %d is read anew from the changelog: %s", partition, why
            )
        self._store.reset(partition, origin)

    def _check_last(self, message: Message) -> None:
        """The row at the table's position is the last that the table took: it must hold it as it is."""
        partition, key = message.partition, message.key
        if key is None or message.position != self._store.changelog_position(partition):
            return
        if self._store.get(partition, key) != message.value:
            why = f"the row at position {message.position} isn't the one that it took there"
            self._make_anew(partition, self._store.changelog_identity(partition) or "", why)
            raise _TableReset

    def _take(self, messages: Sequence[Message]) -> None:
        by_partition: dict[int, list[Message]] = defaultdict(list)
        for message in messages:
            by_partition[message.partition].append(message)
        for partition, found in by_partition.items():
            self._check_last(found[0])
            rows = [(message.key, message.value) for message in found if message.key is not None]
            self._store.write(
                partition, rows, [message.position for message in found if message.key is not None]
            )
