"""Waiting for the secondaries of a volume, on reports in memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mirrorlog.cli.support.waiting import NotConsistentYet, await_reports
from mirrorlog.codec.events import encode
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.errors import ExitCode, exit_code_of
from mirrorlog.ports.streams import Message
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.topics import Topics

TOPICS = Topics()


def report(site: str, consistent: int | None, reason: str | None = None) -> SiteProgress:
    """Return a report on volume v."""
    return SiteProgress(
        site=site,
        volume="v",
        generation="g",
        state=SiteState.SYNCING if consistent is None else SiteState.CONSISTENT,
        rung=None,
        applied_position=consistent,
        consistent_position=consistent,
        watermark=consistent,
        behind_blocks=None,
        behind_bytes=None,
        lag_s=None,
        blocks_copied=0,
        bytes_copied=0,
        at_us=1,
        reason=reason,
    )


class World:
    """Reports that arrive one at each poll, while a second passes."""

    def __init__(self, first: Sequence[SiteProgress], later: Sequence[SiteProgress]) -> None:
        self.clock, self.broker = ManualClock(), MemoryBroker()
        self.broker.create(TOPICS.specs(single_copy=True), 1)
        for progress in first:
            self.publish(progress)
        world, coming = self, iter(later)

        class Reader(MemoryReader):
            def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
                if timeout_s == pytest.approx(0.2):
                    world.clock.now_s += 1
                    if (progress := next(coming, None)) is not None:
                        world.publish(progress)
                return super().poll(timeout_s, max_messages=max_messages)

        self.reports = SiteReports(Reader(self.broker), self.broker, TOPICS, self.clock)

    def publish(self, progress: SiteProgress) -> None:
        key = f"{progress.site}/{progress.volume}".encode()
        self.broker.append(TOPICS.progress, 0, key, encode(progress))

    def wait(self) -> dict[str, int | None]:
        """Wait for position 5 for at most 4 s; return the positions of the sites."""
        known = await_reports(self.reports, "v", 5, self.clock, 4)
        return {progress.site: progress.consistent_position for progress in known}


@pytest.mark.parametrize(
    ("first", "later", "expected"),
    [
        ([report("a", 5)], [], {"a": 5}),
        ([], [report("a", 4), report("a", 6)], {"a": 6}),
        ([report("a", 9), report("b", None)], [report("b", 3), report("b", 7)], {"a": 9, "b": 7}),
    ],
)
def test_it_ends_when_every_secondary_is_proved_consistent(
    first: list[SiteProgress], later: list[SiteProgress], expected: dict[str, int]
) -> None:
    assert World(first, later).wait() == expected


@pytest.mark.parametrize(
    ("first", "what"),
    [
        ([], "no site has reported on the volume"),
        ([report("a", 4)], "the secondary of a isn't consistent yet, its state is CONSISTENT"),
        (
            [report("a", 9), report("b", None, "the initial copy wasn't finished")],
            "the secondary of b isn't consistent yet, its state is SYNCING: the initial copy "
            "wasn't finished",
        ),
    ],
)
def test_at_the_timeout_it_names_a_secondary_that_is_not(
    first: list[SiteProgress], what: str
) -> None:
    with pytest.raises(NotConsistentYet) as error:
        World(first, []).wait()
    assert error.value.what == what
    assert error.value.where.startswith("volume v")
    assert exit_code_of(error.value) is ExitCode.FAILED
