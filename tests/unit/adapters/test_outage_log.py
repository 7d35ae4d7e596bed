"""What is logged while Kafka is away."""

from __future__ import annotations

import pytest

from mirrorlog.adapters.kafka.outage_log import OutageLog
from mirrorlog.simulation.manual_clock import ManualClock

REFUSED = "Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)"


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.removeprefix("Kafka at kafka:9092 ") for line in caplog.messages]


def test_an_outage_is_logged_once_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    outages = OutageLog(clock)
    for number in range(40):
        clock.now_s = float(number)
        for name in ("kafka:9092/bootstrap", "GroupCoordinator: kafka:9092", "kafka:9092/1"):
            suppressed = f", {number} identical error(s) suppressed)"
            outages.failed("kafka:9092", f"{name}: {REFUSED[:-1]}{suppressed}")
    outages.answered("kafka:9092")
    outages.answered("kafka:9092")
    assert lines_of(caplog) == [
        "can't be reached, trying again: Connect to ipv4#127.0.0.1:9092 failed: Connection refused",
        "works again after 105 failures in 34 s",
    ]


def test_a_short_outage_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    outages = OutageLog(clock)
    for number in range(0, 60, 4):
        clock.now_s = float(number)
        outages.failed("kafka:9092", f"kafka:9092/1: {REFUSED}")
        clock.now_s = number + 1.0
        outages.answered("kafka:9092")
    assert lines_of(caplog) == []
