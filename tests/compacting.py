"""A compactor on a table in memory, with a clock that a test moves by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from notation import record

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.site_reports import LogUser
from mirrorlog.simulation.coroutines import CoroutineRunner
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.streams.compaction.compactor import CompactionSettings, LogCompactor
from mirrorlog.streams.table.local_store import Row
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import key_kind, read_record_key, record_key
from mirrorlog.tracking_log.records import LogRecord

NOTHING_KEPT = {"second": 0.0, "minute": 0.0, "hour": 0.0}


class FakeTable:
    """A LogTable of partition 0 that keeps the order of its writes in `written`.

    `+` and `-` stand before the tier and range of a record that was written or removed; `W` is the
    watermark.

    emptied: how often its write buffer was emptied.
    """

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.flushed: dict[str, int] = {}
        self.through, self.written, self.emptied = -1, "", 0

    def flush(self, text: str, blocks: str, **more: object) -> None:
        """Write a record in the notation of notation.record, as a flush does."""
        flushed = replace(record(text, blocks), **more)  # type: ignore[arg-type]
        self.rows[record_key(flushed)] = encode(flushed)
        self.flushed.setdefault(flushed.volume, flushed.after)
        self.through = max(self.through, flushed.through)

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        return sorted(key for key in self.rows if start <= key < end)[:limit]

    def complete_through(self, partition: int) -> int:
        return self.through

    def watermark(self, partition: int) -> Watermark | None:
        return Watermark(partition=partition, through=self.through, at_us=0)

    def empty_write_buffer(self, partition: int) -> None:
        self.emptied += 1

    def take_flushed(self, partition: int) -> Mapping[str, int]:
        taken, self.flushed = self.flushed, {}
        return taken

    async def append(self, partition: int, rows: Sequence[Row]) -> None:
        for key, value in rows:
            self.rows.pop(key, None) if value is None else self.rows.update({key: value})
            if key_kind(key) is LogRecord:
                fields = read_record_key(key)
                sign = "-" if value is None else "+"
                self.written += f"{sign}{fields.tier} {fields.after}..{fields.through} "

    async def repeat_watermark(self, partition: int) -> None:
        self.written += "W "

    def records(self) -> list[LogRecord]:
        return [
            decode(value, LogRecord)
            for key, value in sorted(self.rows.items())
            if key_kind(key) is LogRecord
        ]


class FakeReports:
    """The same reports of sites and backups for every volume."""

    def __init__(self) -> None:
        self.reports: list[LogUser] = []

    def refresh(self) -> None: ...

    def users_of(self, name: str) -> Sequence[LogUser]:
        return self.reports


class CompactorModel:
    """A compactor and its table. Seconds, minutes and hours aren't kept unless keep_s says so.

    broker_ahead_s: by how much the broker's clock is ahead of the node's; None if the topic holds
    the times of hosts.
    """

    def __init__(
        self,
        keep_s: Mapping[str, float] | None = None,
        past_s: float | None = None,
        record_max_bytes: int = 900_000,
        broker_ahead_s: float | None = 0.0,
    ) -> None:
        self.broker_ahead_s, self.appended = broker_ahead_s, -1
        self._coroutines = CoroutineRunner()
        self.table, self.clock, self.reports = FakeTable(), ManualClock(1_000_000.0), FakeReports()
        self.volumes: dict[str, Volume] = {}
        self.settings = CompactionSettings(
            (60, 3600, 86_400), keep_s or NOTHING_KEPT, past_s, record_max_bytes, 300.0
        )
        self.restart()

    def restart(self) -> None:
        """Let another worker take the partition: it learns the broker's time from a batch."""
        self.compactor = LogCompactor(
            self.table,  # type: ignore[arg-type]
            self.volumes,
            lambda: self.reports,  # type: ignore[arg-type,return-value]
            self.clock,
            self.settings,
        )

    def work(self) -> float:
        """Work until nothing is due; return in how many seconds something is."""
        if self.table.through > self.appended:
            self.appended = self.table.through
            at_us = (
                None
                if self.broker_ahead_s is None
                else self.clock.now_us() + int(self.broker_ahead_s * 1e6)
            )
            self.compactor.note_appended(0, through=self.appended, at_us=at_us)

        async def work_off() -> float:
            for _ in range(1000):
                if rest_s := await self.compactor.work(0):
                    return rest_s
            pytest.fail("the work never ends")

        return self._coroutines.run(work_off())

    def after(self, seconds: float, steps: int = 4) -> str:
        """Return what is written in that time."""
        self.table.written = ""
        self.work()
        for _ in range(steps):
            self.clock.now_s += seconds / steps
            self.work()
        return self.table.written.strip()


def aged(
    past_s: float | None = None, *, broker_ahead_s: float | None = 0.0, **volumes: Volume
) -> CompactorModel:
    """Return a log that is kept for an hour, after three hours with a record each ten minutes."""
    model = CompactorModel(NOTHING_KEPT | {"day": 3600.0}, past_s, broker_ahead_s=broker_ahead_s)
    model.volumes.update(volumes)
    for number in range(18):
        model.table.flush(f"{number * 10 - 1}..{number * 10 + 9}", f"{number}")
        model.after(600)
    return model
