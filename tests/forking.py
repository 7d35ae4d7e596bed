"""Secondaries that a test drives by hand, and reports that it makes up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition

from notation import site_progress

from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.producers.forks.fork_calls import Call, SecondaryCalls


@dataclass
class HandWorkers:
    """Nothing happens at a secondary until run(), or until somebody waits. `hangs`: whether a call is only begun; let_go()
    returns those. idle: called where somebody waits and nothing can be done."""

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
        """How many calls were made or begun, at most so many."""
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
        """What hung is done now."""
        stuck, self.stuck = self.stuck, []
        for calls, call in stuck:
            self.make(calls, call)


@dataclass
class Reports:
    """What sites said last."""

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
) -> SiteProgress:
    """One report."""
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
    )
