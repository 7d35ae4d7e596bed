"""What a site reports of a secondary, and when."""

from __future__ import annotations

import pytest
from notation import GENERATION, record, volume

from mirrorlog.codec.events import decode
from mirrorlog.consumers.resync.cycle import CycleInput, Idle
from mirrorlog.consumers.resync.reporting import ProgressReporter, progress_of, summarize_site
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.site_log import SiteLog

TOPICS = Topics()


def secondary_at(applied: int, state: SiteState, *, is_consistent: bool = True) -> Secondary:
    secondary = Secondary(volume())
    secondary.note_saved(
        SecondaryState(
            volume="v",
            generation=GENERATION,
            applied_position=applied,
            consistent_position=applied if is_consistent else None,
        )
    )
    secondary.go_idle(Idle(state))
    return secondary


def known(watermark: int | None, *spans: str) -> CycleInput:
    log = VolumeLog()
    for span in spans:
        log.add(record(span, "1 2"))
    return CycleInput(volume(), SiteLog(log, VolumeLog(), "a"), watermark, None, False)


# state | saved as consistent | the log names blocks above 4 | applied, consistent, watermark
CASES = """
CONSISTENT | yes | no  | 9 9 9
CONSISTENT | yes | yes | 4 4 9
SETTLING   | no  | no  | 9 None 9
SETTLING   | no  | yes | 4 None 9
STOPPED    | yes | no  | 4 4 9
STOPPED    | yes | yes | 4 4 4
STOPPED    | no  | yes | 4 None 9
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_positions_that_are_reported(case: str) -> None:
    state, consistent, behind, expected = (part.strip() for part in case.split("|"))
    secondary = secondary_at(4, SiteState(state), is_consistent=consistent == "yes")
    progress = progress_of("a", secondary, known(9, *(["4..9"] if behind == "yes" else [])), 7)
    positions = (progress.applied_position, progress.consistent_position, progress.watermark)
    assert " ".join(map(str, positions)) == expected
    assert progress.behind_blocks == (2 if behind == "yes" else 0)


def test_a_report_is_due_after_the_interval_and_at_once_when_consistent() -> None:
    broker, clock = MemoryBroker(), ManualClock()
    broker.create(TOPICS.specs(single_copy=True), 1)
    reporter = ProgressReporter("a", broker.publisher(), TOPICS.progress, clock, 1.0)
    secondary = secondary_at(4, SiteState.SYNCING, is_consistent=False)

    def report() -> bool:
        if not reporter.is_due(secondary):
            return False
        reporter.report(secondary, known(4))
        reporter.poll()
        return True

    assert (report(), report()) == (True, False)
    secondary.go_idle(Idle(SiteState.CONSISTENT))
    assert (report(), report()) == (True, False)
    clock.now_s = 5.0
    assert report()  # due, but nothing has changed
    secondary.note_copied(blocks=2, size_bytes=8192)
    assert report()
    messages = broker.messages(TOPICS.progress)
    assert {message.key for message in messages} == {b"a/v"}
    reports = [decode(message.value or b"", SiteProgress) for message in messages]
    assert [(report.state, report.bytes_copied) for report in reports] == [
        (SiteState.SYNCING, 0),
        (SiteState.CONSISTENT, 0),
        (SiteState.CONSISTENT, 8192),
    ]


def test_a_summary_counts_states_and_adds_up_what_was_copied() -> None:
    states = (SiteState.CONSISTENT, SiteState.STOPPED, SiteState.CONSISTENT, SiteState.SYNCING)
    secondaries = [secondary_at(4, state) for state in states]
    for secondary in secondaries[:3]:
        secondary.note_copied(blocks=2, size_bytes=8192)
    summary = summarize_site("a", secondaries)
    assert (summary.volumes, summary.consistent, summary.stopped) == (4, 2, 1)
    assert (summary.blocks_copied, summary.bytes_copied) == (6, 3 * 8192)
