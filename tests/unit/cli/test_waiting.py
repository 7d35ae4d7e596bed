"""Waiting for the secondaries of a volume, on reports in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from notation import OTHER_GENERATION, command, site_progress, volume

from mirrorlog.cli.support.waiting import (
    NotConsistentYet,
    carried_forward,
    look_until,
    proved_reports,
    proves,
)
from mirrorlog.codec.events import encode
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.errors import ExitCode, exit_code_of
from mirrorlog.reading.last_commands import LastCommands
from mirrorlog.reading.present_state import PresentStateReader
from mirrorlog.reading.read_through import ReadPatience
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics

TOPICS = Topics()


def report(site: str, consistent: int | None, reason: str | None = None) -> SiteProgress:
    """Return a report on volume v."""
    return site_progress(
        site=site,
        state=SiteState.SYNCING if consistent is None else SiteState.CONSISTENT,
        applied_position=consistent,
        consistent_position=consistent,
        reason=reason,
    )


class World:
    """Reports that arrive one after each look, while a second passes."""

    def __init__(self, first: Sequence[SiteProgress], later: Sequence[SiteProgress]) -> None:
        self.clock, self.broker = ManualClock(), MemoryBroker()
        self.broker.create(TOPICS.specs(single_copy=True), 1)
        self.coming = iter(later)
        for progress in first:
            self.publish(progress)

    def publish(self, progress: SiteProgress) -> None:
        key = f"{progress.site}/{progress.volume}".encode()
        self.broker.append(TOPICS.progress, 0, key, encode(progress))

    def sleep(self, seconds: float) -> None:
        self.clock.now_s += 1
        if (progress := next(self.coming, None)) is not None:
            self.publish(progress)

    def wait(self) -> dict[str, int | None]:
        """Wait for position 5 for at most 4 s; return the positions of the sites."""
        reader = PresentStateReader(self.broker.reader, self.broker, TOPICS, self.clock)

        def look() -> list[SiteProgress]:
            return [heard.report for heard in reader.refresh().secondaries.values()]

        def is_done(seen: Sequence[SiteProgress]) -> bool:
            return bool(seen) and all(proves(report.consistent_position, 5) for report in seen)

        seen = look_until(look, is_done, 4, clock=self.clock, sleep=self.sleep)
        known = proved_reports(seen, "v", 5)
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
            "the secondary of b isn't consistent yet, its state is INITIAL: the initial copy "
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


def last_commands(*names: str) -> LastCommands:
    """Return commands of these volumes, from position 0 on."""
    broker = MemoryBroker()
    broker.create(TOPICS.specs(single_copy=True), 1)
    for name in names:
        broker.append(TOPICS.commands, 0, name.encode(), encode(command("0+4096", name)))
    patience = ReadPatience(ManualClock(), 1.0, "testing")
    return LastCommands(
        broker.reader,
        TOPICS.commands,
        0,
        patience,
        through=broker.end_position(TOPICS.commands, 0) - 1,
    )


def test_a_report_of_an_idle_volume_counts_for_what_came_since() -> None:
    """The other volumes of the partition go on, and a site reports an idle one rarely."""
    idle = report("a", 1)
    carried = carried_forward(idle, volume(), last_commands("v", "v", "other", "other"))
    assert (carried.consistent_position, carried.applied_position) == (3, 3)
    written = last_commands("v", "v", "other", "v", "other")
    assert carried_forward(idle, volume(), written) is idle


@pytest.mark.parametrize(
    "more",
    [
        {"state": SiteState.SYNCING},
        {"state": SiteState.SETTLING},
        {"consistent_position": None},
        {"behind_blocks": 1},
        {"behind_blocks": None},
        {"generation": OTHER_GENERATION},
    ],
    ids=str,
)
def test_nothing_follows_from_a_report_that_proves_nothing(more: dict[str, object]) -> None:
    unproved = replace(report("a", 1), **more)  # type: ignore[arg-type]
    commands = last_commands("v", "v", "other")
    assert carried_forward(unproved, volume(), commands) is unproved
