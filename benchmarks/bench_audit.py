"""Measures how long a question about changed blocks takes, on the log of weeks of writes.

    python benchmarks/bench_audit.py [--cases changed,capped,writers,kafka] [--days 30] [--repeat 5]
        [--short] [--save]

The log is the node's table after 30 days of 10,000 writes a second (audit_state.py), in RocksDB as
the node has it. A question is asked as the node asks it for HTTP: of the table, with the rests that
it takes beside the fold, and with a first page made of the answer (`node_…`), or without both
(`table_…`). Ranges are of whole hours, by positions and by times; another state has a tenth of the
writes, and another a third of the days. `hour_from_half_past`: from half past an hour to half past
the next, whose halves are replayed from their commands. `capped_…`: the writes go to 262,144 blocks
only, and another state has a tenth of the writes to these: the ranges are of an hour, of 10 and of
100 from 07:00 on. `kafka_day_1`: the question for an hour as
the command line asks it without --node, of a changelog in memory that has one day of records.
`writers`: who wrote a block in all of these days, asked of an archive of all rows of them
(audit_writers.py), of a tenth of the days, and of these without merges. With --cases, the others
keep the figures that were saved last. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final, cast

import faust
from audit_state import BEGAN_US, DAY_S, HOUR_S, AuditState, SimulatedCommands
from audit_writers import RangeFile, WritersArchive, range_files, ranges_of
from case_options import add_case_options, chosen_cases, data_folder
from results import RESULTS_DIR, machine, report_result

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import list_page
from mirrorlog.changed.logs import LogView, TopicLogSource, VolumeLogSource
from mirrorlog.changed.points import AtPosition, AtTime, Point
from mirrorlog.changed.query import changed_blocks
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import TopicReader
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.streams.faust_worker.faust_store import FaustStore
from mirrorlog.streams.web.query_threads import QuerySlot, QueryThreads
from mirrorlog.streams.web.table_logs import TableLogSource
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.records import LogRecord

_CASES: Final = ("changed", "capped", "writers", "kafka")
_ROWS_A_WRITE: Final = 64
_PAGE: Final = 1000
_CAPPED_BLOCKS: Final = 1 << 18
"""So few that a record of an hour holds all of them, at 1,000 writes a second, too."""
_WRITERS: Final = (
    ("", 1, True),
    ("_tenth_of_days", 10, True),
    ("_tenth_of_days_without_merges", 10, False),
)
"""Suffixes of the case `writers`: the part of the days, and whether their rows are merged."""
_LIMITS: Final = {"node_hour": 0.3, "node_hour_by_time": 0.3, "writers": 1.0}
_RATIOS: Final = (
    ("writers_to_writers_of_a_tenth_of_the_days", "writers", "_tenth_of_days"),
    ("hour_to_hour_of_a_tenth_of_the_writes", "table_hour", "_tenth_of_writes"),
    ("capped_10h_to_10h_of_a_tenth_of_the_writes", "capped_10h", "_tenth_of_writes"),
    ("hour_to_hour_of_a_third_of_the_days", "table_hour", "_third_of_days"),
    ("whole_to_whole_of_a_third_of_the_days", "table_whole", "_third_of_days"),
)
TOPICS: Final = Topics()


class Table:
    """A node's table of one state, and questions to it."""

    def __init__(self, state: AuditState, folder: Path) -> None:
        app = faust.App(
            f"audit{state.days}-{state.writes_a_second}-{state.touched_blocks}",
            store="rocksdb://",
            datadir=folder,
            autodiscover=False,
            web_enabled=False,
        )
        self.state, self.store = state, FaustStore(app, "log", {})
        self.logs: CountedLogs | None = None
        self.records = self.bytes = 0
        positions, rows = 0, []
        for row in state.rows():
            rows.append(row)
            self.records += 1
            self.bytes += len(row[1])
            if len(rows) == _ROWS_A_WRITE:
                self.store.write(0, rows, range(positions, positions + len(rows)))
                positions += len(rows)
                rows = []
        self.store.write(0, rows, range(positions, positions + len(rows)))
        self.broker = MemoryBroker()
        self.broker.create(TOPICS.specs(single_copy=True), 1)
        publisher = self.broker.publisher()
        publish_volume(publisher, TOPICS, state.volume)
        publisher.flush(1)

    def ask(
        self, since: Point, until: Point, slot: QuerySlot | None, commands: SimulatedCommands
    ) -> ChangedBlocks:
        """Answer as the node does. slot: takes the rests between steps of work; None: no rest."""
        rest: Callable[[], None] = (lambda: None) if slot is None else slot.checkpoint
        logs = self.logs = CountedLogs(
            TableLogSource(self.store.open_view, SystemClock(), rest, lambda _: None)
        )
        ports = _ports(self.broker, commands, logs, rest)
        return changed_blocks(self.state.volume.volume, since, until, ports, 5.0)


class CountedLogs:
    """The logs of another source, of which is counted what a question reads of them.

    headers: the records in the log. united: those whose bitmaps were read. bitmaps: their parts.
    """

    def __init__(self, logs: VolumeLogSource) -> None:
        self._logs = logs
        self.headers = self.united = self.bitmaps = 0

    def read(self, volume: Volume, needed: int, patience_s: float) -> LogView:
        view: Any = self._logs.read(volume, needed, patience_s)
        read_parts = view.parts

        def parts(record: Sequence[LogRecord]) -> Sequence[LogRecord]:
            read: Sequence[LogRecord] = read_parts(record)
            self.united += 1
            self.bitmaps += len(read)
            return read

        view.parts = parts
        self.headers = sum(1 for _ in view.log.complete_records())
        return cast(LogView, view)


def _ports(
    broker: MemoryBroker,
    commands: SimulatedCommands,
    logs: VolumeLogSource,
    checkpoint: Callable[[], None],
) -> QueryPorts:
    def open_reader() -> TopicReader:
        return commands.reader()

    catalog = Catalog(broker.reader(), broker, TOPICS, SystemClock())
    admin: Any = commands
    return QueryPorts(open_reader, admin, catalog, TOPICS, SystemClock(), logs, checkpoint)


@dataclass(frozen=True)
class Measured:
    """The seconds of each run, and what the question read and named."""

    runs: list[float]
    commands: int
    blocks: int
    logs: CountedLogs | None = None

    def case(self) -> dict[str, Any]:
        """Return the case of the result."""
        return {
            "median": round(median(self.runs), 3),
            "unit": "s",
            "runs": [round(run, 3) for run in self.runs],
            "commands_read": self.commands,
            "blocks": self.blocks,
        } | (
            {}
            if self.logs is None
            else {
                "headers": self.logs.headers,
                "records": self.logs.united,
                "bitmaps": self.logs.bitmaps,
            }
        )


def by_position(state: AuditState, begin_s: int, end_s: int) -> tuple[Point, Point]:
    """Return the positions between two seconds."""
    first, end = (second * state.commands_a_second - 1 for second in (begin_s, end_s))
    return AtPosition(first), AtPosition(end)


def by_time(begin_s: int, end_s: int) -> tuple[Point, Point]:
    """Return the times of two seconds."""
    return AtTime(BEGAN_US + begin_s * 1_000_000), AtTime(BEGAN_US + end_s * 1_000_000)


def measure(table: Table, points: tuple[Point, Point], repeat: int, *, rests: bool) -> Measured:
    """Ask a question `repeat` times. With rests it is asked in a thread of the node's questions."""
    runs, blocks, commands = [], 0, SimulatedCommands(table.state)
    for _ in range(repeat):
        commands.read = 0
        begun_s = time.perf_counter()
        answer = (
            asyncio.run(_in_thread(partial(table.ask, *points), commands))
            if rests
            else table.ask(*points, None, commands)
        )
        if rests:
            list_page(answer, "json", 0, _PAGE)
        runs.append(time.perf_counter() - begun_s)
        blocks = len(answer.changed)
    return Measured(runs, commands.read, blocks, table.logs)


async def _in_thread(
    ask: Callable[[QuerySlot | None, SimulatedCommands], ChangedBlocks],
    commands: SimulatedCommands,
) -> ChangedBlocks:
    threads = QueryThreads(1)
    with threads.slot() as slot:
        return await slot.run(partial(ask, slot, commands))


def kafka_way(state: AuditState, points: tuple[Point, Point], repeat: int) -> tuple[Measured, int]:
    """Ask the changelog itself, in memory. Return the bytes that it holds, too."""
    broker = MemoryBroker()
    broker.create(TOPICS.specs(single_copy=True), 1)
    publisher = broker.publisher()
    publish_volume(publisher, TOPICS, state.volume)
    publisher.flush(1)
    size = 0
    for key, value in state.rows():
        broker.append(TOPICS.changelog, 0, key, value)
        size += len(value)
    commands, runs, blocks = SimulatedCommands(state), [], 0
    for _ in range(repeat):
        begun_s = time.perf_counter()
        logs = TopicLogSource(broker.reader, broker, TOPICS.changelog, SystemClock())
        ports = _ports(broker, commands, logs, lambda: None)
        blocks = len(changed_blocks(state.volume.volume, *points, ports, 60.0).changed)
        runs.append(time.perf_counter() - begun_s)
    return Measured(runs, commands.read, blocks), size


def writers(
    folder: Path, state: AuditState, made: Sequence[RangeFile], days: int, repeat: int, merged: bool
) -> dict[str, Any]:
    """Ask an archive of so many days who wrote a block. Return the case."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        ranges = ranges_of(days, state)
        archive = WritersArchive(state, made, Path(own), ranges, is_merged=merged)
        asked = [archive.ask() for _ in range(repeat)]
        return {
            "median": round(median(run["s"] for run in asked), 3),
            "unit": "s",
            "runs": [round(run["s"], 3) for run in asked],
            "cpu_runs": [round(run["cpu_s"], 3) for run in asked],
            "files_chosen_s": round(median(run["files_chosen_s"] for run in asked), 3),
            "rows": archive.rows,
            "ranges": ranges,
            "files": asked[0]["files"],
            "writes_of_block": archive.writes,
        }


@contextmanager
def built(state: AuditState, folder: Path) -> Iterator[Table]:
    """Make the table of a state."""
    begun_s = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        table = Table(state, Path(own))
        took_s = time.perf_counter() - begun_s
        print(
            f"{state.days} days of {state.writes_a_second} writes/s: {table.records} parts of "
            f"records, {table.bytes / 1e9:.2f} GB, made in {took_s:.0f} s",
            file=sys.stderr,
        )
        yield table


def main() -> int:
    """Measure, and print the result as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    add_case_options(parser, _CASES, short="six days instead of thirty")
    arguments = parser.parse_args()
    chosen = chosen_cases(parser, arguments, _CASES)
    days, repeat = 6 if arguments.short else arguments.days, arguments.repeat
    cases = _saved_cases() if len(chosen) < len(_CASES) else {}
    with data_folder(arguments) as folder:
        if "changed" in chosen:
            _measure_changed(cases, days, repeat, folder)
        if "capped" in chosen:
            _measure_capped(cases, days, repeat, folder)
        if "writers" in chosen:
            _measure_writers(cases, days, repeat, folder)
        if "kafka" in chosen:
            day = AuditState(1, 10_000)
            measured, size = kafka_way(day, by_position(day, 7 * HOUR_S, 8 * HOUR_S), repeat)
            _add(cases, "kafka_day_1", measured.case() | {"changelog_bytes": size})
    result = {
        "bench": "audit",
        "machine": machine(),
        "short": arguments.short,
        "repeat": repeat,
        "days": days,
        "cases": cases,
        "ratios": _ratios(cases),
        "failures": [],
    }
    return report_result(result, save=arguments.save)


def _saved_cases() -> dict[str, dict[str, Any]]:
    path = RESULTS_DIR / "audit.json"
    return json.loads(path.read_text("utf-8"))["cases"] if path.exists() else {}


def _measure_changed(
    cases: dict[str, dict[str, Any]], days: int, repeat: int, folder: Path
) -> None:
    states = {
        "": AuditState(days, 10_000),
        "_tenth_of_writes": AuditState(days, 1000),
        "_third_of_days": AuditState(max(days // 3, 1), 10_000),
    }
    for suffix, state in states.items():
        with built(state, folder) as table:
            for name, measured in _questions(table, repeat, is_main=not suffix):
                _add(cases, f"{name}{suffix}", measured.case())


def _measure_capped(cases: dict[str, dict[str, Any]], days: int, repeat: int, folder: Path) -> None:
    for suffix, writes in (("", 10_000), ("_tenth_of_writes", 1000)):
        with built(AuditState(days, writes, _CAPPED_BLOCKS), folder) as table:
            for hours in (1, 10, 100):
                begin_s = 7 * HOUR_S
                points = by_position(table.state, begin_s, begin_s + hours * HOUR_S)
                measured = measure(table, points, repeat, rests=False)
                _add(cases, f"capped_{hours}h{suffix}", measured.case())


def _measure_writers(
    cases: dict[str, dict[str, Any]], days: int, repeat: int, folder: Path
) -> None:
    state = AuditState(days, 10_000)
    made = range_files(state, folder)
    for suffix, part, merged in _WRITERS:
        case = writers(folder, state, made, max(days // part, 1), repeat, merged)
        _add(cases, f"writers{suffix}", case)


def _ratios(cases: dict[str, dict[str, Any]]) -> dict[str, float]:
    ratios = {
        f"{name}_of_limit": cases[name]["median"] / limit
        for name, limit in _LIMITS.items()
        if name in cases
    }
    for text, name, suffix in _RATIOS:
        if name in cases and name + suffix in cases:
            ratios[text] = cases[name]["median"] / cases[name + suffix]["median"]
    return {name: round(ratio, 3) for name, ratio in ratios.items()}


def _questions(table: Table, repeat: int, *, is_main: bool) -> Iterator[tuple[str, Measured]]:
    """Ask the questions of one state. is_main: also those that replay many commands."""
    state = table.state
    hour_s = state.days * DAY_S // 2 + 7 * HOUR_S
    hour = (hour_s, hour_s + HOUR_S)
    spans = {
        "hour": by_position(state, *hour),
        "hour_by_time": by_time(*hour),
        "day": by_position(state, hour_s - DAY_S // 2, hour_s + DAY_S // 2),
        "whole": by_position(state, 0, state.days * DAY_S),
    }
    for name, points in spans.items():
        for way, rests in (("table", False), ("node", True)):
            yield f"{way}_{name}", measure(table, points, repeat, rests=rests)
    if is_main:
        half = HOUR_S // 2
        points = by_time(hour[0] + half, hour[1] + half)
        yield "table_hour_from_half_past", measure(table, points, 1, rests=False)


def _add(cases: dict[str, dict[str, Any]], name: str, case: dict[str, Any]) -> None:
    cases[name] = case
    print(f"{name:32} {case}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
