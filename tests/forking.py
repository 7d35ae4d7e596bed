"""Secondaries that a test drives by hand, and reports that it makes up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition

from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.producers.forks.fork_calls import Call, Hand


@dataclass
class HandWorkers:
    """Nothing happens at a secondary until run(), or until somebody waits. `hangs`: whether a call is only begun; let_go()
    returns those. idle: called where somebody waits and nothing can be done."""

    hands: list[Hand] = field(default_factory=list)
    hangs: Callable[[Call], bool] = lambda _: False
    stuck: list[tuple[Hand, Call]] = field(default_factory=list)
    idle: Callable[[float], None] = lambda _: None

    def employ(self, hand: Hand) -> None:
        self.hands.append(hand)

    def wait(self, changed: Condition, timeout_s: float) -> None:
        if not self.run():
            self.idle(timeout_s)

    def run(self, most: int = 1_000_000) -> int:
        """How many calls were made or begun, at most so many."""
        count = 0
        while count < most and any(self.step(hand) for hand in self.hands):
            count += 1
        return count

    def step(self, hand: Hand) -> bool:
        with hand.work:
            if (call := hand.take()) is None:
                return False
        if self.hangs(call):
            self.stuck.append((hand, call))
        else:
            self.make(hand, call)
        return True

    def make(self, hand: Hand, call: Call) -> None:
        failure = call.perform()
        with hand.work:
            hand.finish(call, failure)

    def let_go(self) -> None:
        """What hung is done now."""
        stuck, self.stuck = self.stuck, []
        for hand, call in stuck:
            self.make(hand, call)


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
    return SiteProgress(
        *(site, volume, generation, state, rung, applied, consistent, watermark),
        *(0, 0, 0.0, 0, 0, at_us),
    )
