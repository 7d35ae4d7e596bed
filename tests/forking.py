"""Secondaries that a test drives, and reports that it makes up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition

from notation import site_progress

from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.ports.devices import BlockDevice, Data
from mirrorlog.producers.forks.fork_calls import Call, SecondaryCalls, SecondaryOpener
from mirrorlog.simulation.memory_devices import MemoryDevice

SECONDARY_ID = "a secondary"


@dataclass
class HandWorkers:
    """Workers that do nothing until run(), or until somebody waits.

    calls: the secondaries served. hangs: says of a call whether it only begins; return_hung() ends
    such calls. idle: called when somebody waits and no call can be made.
    """

    calls: list[SecondaryCalls] = field(default_factory=list)
    hangs: Callable[[Call], bool] = lambda _: False
    stuck: list[tuple[SecondaryCalls, Call]] = field(default_factory=list)
    idle: Callable[[float], None] = lambda _: None

    def serve(self, calls: SecondaryCalls) -> None:
        self.calls.append(calls)

    def wait(self, changed: Condition, timeout_s: float) -> None:
        if not self.run():
            self.idle(timeout_s)

    def run(self, most: int = 1_000_000) -> int:
        """Make calls until none is left, `most` at most. Return how many were made or begun."""
        count = 0
        while count < most and any(self.step(secondary) for secondary in self.calls):
            count += 1
        return count

    def step(self, calls: SecondaryCalls) -> bool:
        with calls.work:
            if (call := calls.take()) is None:
                return False
        if self.hangs(call):
            self.stuck.append((calls, call))
        else:
            self.make(calls, call)
        return True

    def make(self, calls: SecondaryCalls, call: Call) -> None:
        failure = call.perform()
        with calls.work:
            calls.finish(call, failure)

    def return_hung(self) -> None:
        """Make the calls that hung."""
        stuck, self.stuck = self.stuck, []
        for calls, call in stuck:
            self.make(calls, call)


@dataclass
class Marked:
    """ForkedDevice with an id, which is that of the reports below unless a test changes it."""

    device: BlockDevice
    secondary_id: str = SECONDARY_ID

    @property
    def size_bytes(self) -> int:
        return self.device.size_bytes

    def pwrite(self, offset: int, data: Data) -> None:
        self.device.pwrite(offset, data)

    def zero(self, *, offset: int, length: int) -> None:
        self.device.zero(offset=offset, length=length)

    def flush(self) -> None:
        self.device.flush()

    def close(self) -> None:
        self.device.close()

    def on_copy(self, disk: MemoryDevice) -> Marked:
        """Return the same handle of a copy of its disk."""
        assert isinstance(self.device, MemoryDevice)
        return Marked(self.device.on_copy(disk), self.secondary_id)


def marked(open_device: Callable[..., BlockDevice]) -> SecondaryOpener:
    """Return an opener that takes every device for the secondary of the site."""

    def open_secondary(address: str, *, site: str, volume: str) -> Marked:
        return Marked(open_device(address, writable=True))

    return open_secondary


@dataclass
class Reports:
    """The last report of each site."""

    by_site: dict[str, SiteProgress] = field(default_factory=dict)

    def poll(self) -> None:
        pass

    def of(self, volume: str) -> Sequence[SiteProgress]:
        return [report for report in self.by_site.values() if report.volume == volume]


def report(
    site: str,
    volume: str,
    *,
    watermark: int | None,
    applied: int | None,
    consistent: int | None = None,
    generation: str = "g",
    rung: Rung | None = Rung.CHANGED,
    at_us: int = 0,
    state: SiteState = SiteState.SYNCING,
    secondary_id: str | None = SECONDARY_ID,
) -> SiteProgress:
    """Return a report of a site."""
    return site_progress(
        site=site,
        volume=volume,
        generation=generation,
        state=state,
        rung=rung,
        applied_position=applied,
        consistent_position=consistent,
        watermark=watermark,
        at_us=at_us,
        secondary_id=secondary_id,
    )
