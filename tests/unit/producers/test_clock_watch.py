"""A host says when its clock is far from the broker's, and when a topic holds hosts' times."""

from __future__ import annotations

from dataclasses import dataclass

import notation
import pytest

from mirrorlog.producers.publishing.clock_watch import clock_error_us
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryPublisher
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder

SETTINGS = Settings(host_heartbeat_s=1.0)
SIZE = 1 << 20
START_S = 1_700_000_000.0

# made, appended, acknowledged | the error that is certain
ERRORS = """
10 10 10 | 0
10 15 20 | 0
10 20 20 | 0
10 21 20 | -1
10  9 20 | 1
10  0 90 | 10
"""


@pytest.mark.parametrize("case", ERRORS.strip().splitlines())
def test_only_what_lies_outside_of_making_and_acknowledging_is_an_error(case: str) -> None:
    times, expected = case.split("|")
    made, appended, acknowledged = (int(time) for time in times.split())
    assert clock_error_us(made_us=made, appended_us=appended, acknowledged_us=acknowledged) == int(
        expected
    )


@dataclass
class BrokerClock(ManualClock):
    """The broker's clock; the host's is `host_ahead_s` ahead."""

    host: ManualClock | None = None
    host_ahead_s: float = 0.0

    def now_us(self) -> int:
        assert self.host is not None
        return round((self.host.now_s - self.host_ahead_s) * 1e6)


class SlowPublisher(MemoryPublisher):
    """Delivers nothing for `delay_s` after the first poll, and later acknowledges late."""

    def __init__(self, broker: MemoryBroker, clock: ManualClock, delay_s: float) -> None:
        super().__init__(broker)
        self._clock, self._delay_s = clock, delay_s

    def poll(self, timeout_s: float) -> None:
        if self._queue:
            self._clock.now_s += self._delay_s
        super().poll(timeout_s)
        self._clock.now_s += timeout_s


def reports_of(ahead_s: list[float], *, delay_s: float = 0.0, host_times: bool = False) -> str:
    """Return what a host reports whose clock is ahead by these times, one a heartbeat."""
    clock = ManualClock(now_s=START_S)
    broker_clock = BrokerClock(host=clock, host_ahead_s=ahead_s[0])
    broker = MemoryBroker(clock=broker_clock)
    broker.create(SETTINGS.topics.specs(single_copy=True), 1)
    if host_times:
        broker.host_times, broker.host_clock = {SETTINGS.topics.commands}, clock
    devices, reports = MemoryDevices(), list[str]()
    volume = notation.volume("v", SIZE, generation="g", primary="memory://v")

    devices.create(volume.primary, SIZE)
    ports = HostPorts(MemoryFolder(), SlowPublisher(broker, clock, delay_s), clock, devices)
    with Host("h", ports, SETTINGS, {"v": volume}, report=reports.append) as host:
        host.open(volume, devices(volume.primary, writable=True), newly_created=True)
        for ahead in ahead_s:
            broker_clock.host_ahead_s = ahead
            for _ in range(30):
                host.pause(0.1)
    return "\n".join(reports)


@pytest.mark.parametrize("ahead_s", [0.0, 5.0, -5.0])
@pytest.mark.parametrize("delay_s", [0.0, 600.0])
def test_a_clock_that_agrees_or_a_broker_that_is_slow_is_no_problem(
    ahead_s: float, delay_s: float
) -> None:
    assert reports_of([ahead_s] * 3, delay_s=delay_s) == ""


@pytest.mark.parametrize(
    ("ahead_s", "says"),
    [(7200.0, "2 h ahead of the broker's"), (-7200.0, "2 h behind the broker's")],
)
def test_a_clock_that_is_hours_off_is_said_once_and_again_when_it_is_right(
    ahead_s: float, says: str
) -> None:
    reports = reports_of([ahead_s, ahead_s, 0.0, 0.0])
    assert [line.split("clock ")[1][:11] for line in reports.splitlines()] == [
        "is at least",
        "agrees with",
    ]
    assert says in reports


def test_a_topic_with_hosts_times_is_said() -> None:
    reports = reports_of([0.0, 0.0], host_times=True)
    assert "mirrorlog.commands holds the times of hosts" in reports
    assert "mirrorlog topics create" in reports
    assert len(reports.splitlines()) == 1
