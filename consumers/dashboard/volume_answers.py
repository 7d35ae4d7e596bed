"""Questions about one volume: what changed between two times, and its writes by range and time.

They read Kafka as `mirrorlog changed` and `mirrorlog audit` do, in a few threads. A question ends
when its client goes away. The last answers are kept, because a download asks again what the page
showed: as long as their volume is described as it was.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice, pairwise
from threading import Event
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import changed_runs
from mirrorlog.changed.points import AtPosition, AtTime, Point
from mirrorlog.changed.query import changed_blocks
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.consumers.audit.ask import answer_question
from mirrorlog.consumers.audit.heat import HeatGrid, HeatMap
from mirrorlog.consumers.audit.question import AuditQuestion
from mirrorlog.consumers.dashboard.request_points import AskedPage, AskedSpan
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import NodeUnavailable
from mirrorlog.history.definition import CHANGES
from mirrorlog.reading.catalog import Catalog

T = TypeVar("T")
OpenPorts: TypeAlias = Callable[[], AbstractContextManager[QueryPorts]]
MAX_QUESTIONS: Final = 4
"""So many questions are answered at a time."""
PATIENCE_S: Final = 20.0
"""How long a question waits for the log to reach its last point."""
HEAT_S: Final = 15.0
"""Reading for a heat map ends after this time: the map then says how far it came."""
MAX_RANGES: Final = 64
MAX_SPANS: Final = 240
_KEPT_ANSWERS: Final = 4
_STRIP_CELLS: Final = 512


class QuestionGivenUp(Exception):
    """The client has gone: nobody waits for the answer any more."""


class VolumeAnswers:
    """Answers questions. Call it on an event loop; what blocks runs in threads.

    open_ports: opens what one question needs of Kafka.
    """

    def __init__(self, open_ports: OpenPorts) -> None:
        self._open_ports = open_ports
        self._pool = ThreadPoolExecutor(MAX_QUESTIONS, thread_name_prefix="mirrorlog-answers")
        self._running = 0
        self._kept: OrderedDict[tuple[str, Point, Point], ChangedBlocks] = OrderedDict()

    @property
    def running(self) -> int:
        """The number of questions that are being answered."""
        return self._running

    async def changed(self, volume: str, asked: AskedSpan) -> ChangedBlocks:
        """Return which blocks changed. Errors: those of changed.query.changed_blocks."""
        kept = self._kept.get((volume, asked.since, asked.until))

        def answer(ports: QueryPorts) -> ChangedBlocks:
            if kept is not None and is_as_described(kept.volume, ports.catalog):
                return kept
            return changed_blocks(volume, asked.since, asked.until, ports, PATIENCE_S)

        blocks = await self._ask(answer)
        # By its positions, the answer is the same whenever it is asked for.
        self._keep((volume, AtPosition(blocks.since), AtPosition(blocks.until)), blocks)
        return blocks

    async def heat(self, volume: str, asked: AskedSpan) -> dict[str, Any]:
        """Return the writes of the range by address and time, as JSON (heat_fields)."""
        return await self._ask(partial(_heat, volume, asked))

    async def run(self, work: Callable[[], T]) -> T:
        """Run a step of little work in a thread; wait for one while all of them are at questions.

        So a download that has begun doesn't break off when many questions are asked.
        """
        return await asyncio.wrap_future(self._pool.submit(work))

    def close(self) -> None:
        """Take no more questions. Does not wait for those that run."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, question: Callable[[QueryPorts], T]) -> T:
        """Answer a question in a thread. It ends at a checkpoint if the client has gone."""
        if self._running >= MAX_QUESTIONS:
            raise NodeUnavailable(
                f"{MAX_QUESTIONS} questions are being answered, and no more at a time",
                next="Ask again in a moment.",
            )
        given_up, loop = Event(), asyncio.get_running_loop()

        def checkpoint() -> None:
            if given_up.is_set():
                raise QuestionGivenUp

        def answer() -> T:
            with self._open_ports() as ports:
                return question(replace(ports, checkpoint=checkpoint))

        def free() -> None:
            self._running -= 1

        def free_soon(_: object) -> None:
            with suppress(RuntimeError):  # the loop may have been closed meanwhile
                loop.call_soon_threadsafe(free)

        self._running += 1
        running = self._pool.submit(answer)
        running.add_done_callback(free_soon)
        try:
            return await asyncio.wrap_future(running)
        finally:
            given_up.set()

    def _keep(self, key: tuple[str, Point, Point], blocks: ChangedBlocks) -> None:
        self._kept[key] = blocks
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT_ANSWERS:
            self._kept.popitem(last=False)


def is_as_described(volume: Volume, catalog: Catalog) -> bool:
    """Return whether a volume is still the one of its name, and as large.

    A name is no identity: the volume may have been removed and made anew. Raise UnknownVolume if
    there is none of the name.
    """
    catalog.refresh()
    now = catalog.volume_named(volume.volume)
    return (now.generation, now.size_bytes) == (volume.generation, volume.size_bytes)


def _heat(name: str, asked: AskedSpan, ports: QueryPorts) -> dict[str, Any]:
    """Read the history of the range, for HEAT_S at most."""
    question = AuditQuestion(
        volume=name,
        since=asked.since,
        until=asked.until,
        kinds=frozenset(CHANGES),
        partial=True,
    )
    answer = answer_question(question, ports, PATIENCE_S)
    heat = HeatMap(answer.volume, max_ranges=MAX_RANGES, max_spans=MAX_SPANS)
    deadline_s = ports.clock.monotonic_s() + HEAT_S
    reached_us: int | None = None
    is_whole = True
    for batch in answer.batches(with_status=False):
        ports.checkpoint()
        heat.add(batch)
        appended = batch.numbers("appended_at_us").values
        if len(appended):
            reached_us = int(appended.max())
        if ports.clock.monotonic_s() > deadline_s:
            is_whole = False
            break
    fields = heat_fields(heat.grid(), answer.volume)
    return fields | {
        "since_us": asked.since.at_us if isinstance(asked.since, AtTime) else None,
        "until_us": asked.until.at_us if isinstance(asked.until, AtTime) else None,
        "is_whole": is_whole,
        "reached_us": None if is_whole else reached_us,
        "missing": [{"after": part.after, "through": part.through} for part in answer.span.missing],
    }


def heat_fields(grid: HeatGrid, volume: Volume) -> dict[str, Any]:
    """Return a heat grid as JSON. cells: [range, span, writes] of each cell with a write."""
    places = np.argwhere(grid.counts > 0)
    writes = grid.counts[grid.counts > 0]
    return {
        "volume": volume.volume,
        "size_bytes": volume.size_bytes,
        "range_bytes": grid.range_bytes,
        "span_s": grid.span_s,
        "first_at_us": grid.first_at_us if grid.counts.shape[1] else None,
        "ranges": grid.counts.shape[0],
        "spans": grid.counts.shape[1],
        "cells": np.column_stack((places, writes)).tolist(),
    }


def page_of(blocks: ChangedBlocks, page: AskedPage) -> dict[str, Any]:
    """Return the summary of an answer and a page of its extents, as JSON.

    strip: the bytes that changed in each of at most 512 equal parts of the volume.
    next: the byte that the next page begins with; None on the last.
    """
    volume = blocks.volume
    runs = list(islice(changed_runs(blocks, page.offset), page.limit + 1))
    following = runs.pop() if len(runs) > page.limit else None
    return {
        "volume": volume.volume,
        "size_bytes": volume.size_bytes,
        "block_size": volume.block_size,
        "since": blocks.since,
        "until": blocks.until,
        "since_us": blocks.asked.since_us,
        "until_us": blocks.asked.until_us,
        "volume_began_us": blocks.asked.volume_began_us,
        "clock": blocks.asked.clock,
        "changed_blocks": len(blocks.changed),
        "changed_bytes": volume.bytes_of(len(blocks.changed)),
        "zeroed_blocks": len(blocks.zeroed),
        "hosts": list(blocks.hosts),
        "has_more_hosts": blocks.has_more_hosts,
        "first_write_at_us": blocks.first_write_at_us,
        "last_write_at_us": blocks.last_write_at_us,
        "writes": blocks.writes,
        "strip": strip_of(blocks.changed, volume),
        "extents": [{"start": run.start, "length": run.length, "zero": run.zero} for run in runs],
        "next": None if following is None else following.start,
    }


def strip_of(changed: BlockSet, volume: Volume) -> list[int]:
    """Return how many blocks changed in each of at most 512 parts of the volume, alike in size."""
    cells = min(_STRIP_CELLS, max(volume.blocks, 1))
    bounds = [volume.blocks * cell // cells for cell in range(cells + 1)]
    return [changed.range_cardinality(first, end) for first, end in pairwise(bounds)]
