"""Log lines of libraries that repeat, and the lines of mirrorlog, which decides for itself."""

from __future__ import annotations

import logging

from clocks import CountingClock

from mirrorlog.cli.support.log_lines import RepeatFilter, ZonedFormatter


class Log:
    """Passes one line a second through the filter. `printed` holds the time and text of some."""

    def __init__(self) -> None:
        self.clock, self.printed = CountingClock(), list[tuple[float, str]]()
        self.filter = RepeatFilter(self.clock)

    def add(
        self, count: int, text: str, *values: object, name: str = "aiokafka", at: int = 1
    ) -> None:
        for _ in range(count):
            record = logging.LogRecord(name, logging.ERROR, "file.py", at, text, values, None)
            if self.filter.filter(record):
                self.printed.append((self.clock.now_s, record.getMessage()))
            self.clock.now_s += 1


def test_a_line_that_a_library_repeats_is_printed_at_growing_intervals() -> None:
    log = Log()
    log.add(200, "no route to %s", "kafka:9092")
    assert log.printed == [
        (0, "no route to kafka:9092"),
        (60, "no route to kafka:9092 (61 failures in 1 min)"),
        (180, "no route to kafka:9092 (181 failures in 3 min)"),
    ]


def test_another_line_and_a_line_after_a_pause_are_printed() -> None:
    log = Log()
    log.add(2, "no route", at=1)
    log.add(2, "no leader", at=2)
    log.clock.now_s += 100
    log.add(2, "no route", at=1)
    assert [text for _, text in log.printed] == ["no route", "no leader", "no route"]


def test_lines_whose_text_always_differs_are_bounded_too() -> None:
    log = Log()
    for number in range(50):
        log.add(1, f"task {number} failed")
    assert len(log.printed) == 8


def test_lines_of_mirrorlog_pass() -> None:
    log = Log()
    log.add(5, "volume %s is stopped", "v", name="mirrorlog.site")
    assert len(log.printed) == 5


def test_a_line_carries_its_zone() -> None:
    record = logging.LogRecord("aiokafka", logging.ERROR, "file.py", 1, "no route", (), None)
    record.created = 1_790_000_000.25
    line = ZonedFormatter("%(asctime)s %(message)s").format(record)
    assert line == "2026-09-21T14:13:20.250Z no route"
