"""What a site reports of a secondary, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import GENERATION, record, volume

from mirrorlog.codec.events import decode
from mirrorlog.consumers.resync.copy_counts import CopyCounts
from mirrorlog.consumers.resync.cycle_steps import CycleInput, Idle
from mirrorlog.consumers.resync.next_action import next_action
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


def secondary_at(applied: int | None, state: SiteState, *, is_consistent: bool = True) -> Secondary:
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
        log.add(replace(record(span, "1 2"), first_at_us=1))
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


# state | applied, watermark | spans of the log, each of which names 2 blocks | behind, lag
BEHIND_CASES = """
CONSISTENT | 4 9    |            | 0 0.0
SETTLING   | 4 9    | 4..9       | 2 3.0
SYNCING    | 4 9    | 4..6 6..9  | 2 3.0
SYNCING    | 4 9    | 4..6 8..9  | the log has a hole
SYNCING    | None 9 | -1..9      | the first copy isn't complete
STOPPED    | 9 9    |            | the device may have lost anything
STOPPED    | 4 9    | 4..9       | the device may have lost anything
RETIRED    | 4 9    | 4..9       | nobody follows the volume
WAITING    | 9 9    |            | nobody knows
CONSISTENT | 4 None |            | no watermark yet
SETTLING   | 9 4    |            | the log has lost something, or isn't there yet
"""


@pytest.mark.parametrize("case", BEHIND_CASES.strip().splitlines())
def test_what_is_not_known_is_reported_as_none_and_never_as_0(case: str) -> None:
    state, positions, spans, expected = (part.strip() for part in case.split("|"))
    applied, watermark = (None if text == "None" else int(text) for text in positions.split())
    secondary = secondary_at(applied, SiteState(state), is_consistent=False)
    progress = progress_of("a", secondary, known(watermark, *spans.split()), now_us=3_000_001)
    reported = (progress.behind_blocks, progress.behind_bytes, progress.lag_s)
    if expected[0].isdigit():
        blocks, lag_s = expected.split()
        assert reported == (int(blocks), int(blocks) * 4096, float(lag_s))
    else:
        assert reported == (None, None, None)


def test_the_age_of_a_write_from_the_future_is_not_known() -> None:
    secondary = secondary_at(4, SiteState.SYNCING, is_consistent=False)
    progress = progress_of("a", secondary, known(9, "4..9"), now_us=-3_600_000_000)
    assert (progress.behind_blocks, progress.lag_s) == (2, None)


def test_nothing_is_claimed_by_the_state_of_an_earlier_generation() -> None:
    secondary = secondary_at(4, SiteState.CONSISTENT)
    secondary.describe(volume(generation="22222222-2222-4222-8222-222222222222"))
    progress = progress_of("a", secondary, known(9), now_us=7)
    assert (progress.applied_position, progress.consistent_position) == (None, None)
    assert (progress.behind_blocks, progress.lag_s) == (None, None)


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
    secondary.note_copied(CopyCounts(2, 8192, 8192), now_s=0.0)
    assert report()
    messages = broker.messages(TOPICS.progress)
    assert {message.key for message in messages} == {b"a/v"}
    reports = [decode(message.value or b"", SiteProgress) for message in messages]
    assert [(report.state, report.bytes_copied) for report in reports] == [
        (SiteState.SYNCING, 0),
        (SiteState.CONSISTENT, 0),
        (SiteState.CONSISTENT, 8192),
    ]


def test_a_copy_that_runs_has_a_speed_and_no_other_state_has_one() -> None:
    broker, clock = MemoryBroker(), ManualClock()
    broker.create(TOPICS.specs(single_copy=True), 1)
    reporter = ProgressReporter("a", broker.publisher(), TOPICS.progress, clock, 1.0)
    secondary = secondary_at(4, SiteState.SYNCING, is_consistent=False)
    secondary.begin_copy(total_bytes=5000, now_s=clock.now_s)

    def speed() -> tuple[float | None, float | None]:
        progress = reporter.progress_of(secondary, known(9, "4..9"))
        return progress.rate_bytes_s, progress.eta_s

    assert speed() == (None, None)
    clock.now_s += 4.0
    secondary.note_copied(CopyCounts(1, 1000, 1000), now_s=clock.now_s)
    assert speed() == (250.0, 16.0)
    secondary.stop("the device failed", retry_at_s=9.0, advice="Mount it again.")
    assert speed() == (None, None)


# state | advice of the error | the log lags, a watermark is there | what is said
NEXT_CASES = """
STOPPED    | Mount it. | no yes  | Mount it.
STOPPED    |           | no yes  | Find out
STOPPED    | Mount it. | yes yes | Mount it.
WAITING    |           | no no   | Start a node
WAITING    |           | no yes  |
SYNCING    |           | no yes  |
SETTLING   |           | yes yes | Start a node
CONSISTENT |           | yes yes | Start a node
CONSISTENT |           | no yes  |
RETIRED    |           | yes no  |
"""


@pytest.mark.parametrize("case", NEXT_CASES.strip().splitlines())
def test_what_an_operator_can_do(case: str) -> None:
    state, advice, facts, expected = (part.strip() for part in case.split("|"))
    lags, marked = (fact == "yes" for fact in facts.split())
    said = next_action(
        SiteState(state), advice=advice or None, is_log_lagging=lags, has_watermark=marked
    )
    assert (said is None) == (not expected)
    assert (said or "").startswith(expected)


def test_a_report_names_the_advice_of_the_error_until_the_site_goes_on() -> None:
    secondary = secondary_at(4, SiteState.CONSISTENT)
    secondary.stop("the device failed", retry_at_s=9.0, advice="Mount it again.")
    assert progress_of("a", secondary, known(9), 7).next_action == "Mount it again."
    secondary.begin_cycle(None)
    assert progress_of("a", secondary, known(9), 7).next_action is None


def test_the_last_new_position_has_a_time_unless_it_is_of_another_generation() -> None:
    secondary = secondary_at(4, SiteState.CONSISTENT)
    assert secondary.saved is not None
    moved = replace(secondary.saved, applied_position=9, consistent_position=9, updated_at_us=5)
    secondary.note_saved(moved)
    secondary.note_saved(replace(moved, updated_at_us=8))
    assert progress_of("a", secondary, known(9), 7).last_applied_at_us == 5
    secondary.describe(volume(generation="22222222-2222-4222-8222-222222222222"))
    assert progress_of("a", secondary, known(9), 7).last_applied_at_us is None


def test_a_summary_counts_states_and_adds_up_what_was_copied() -> None:
    states = (SiteState.CONSISTENT, SiteState.STOPPED, SiteState.CONSISTENT, SiteState.SYNCING)
    secondaries = [secondary_at(4, state) for state in states]
    for secondary in secondaries[:3]:
        secondary.note_copied(CopyCounts(2, 8192, 8192), now_s=0.0)
    summary = summarize_site("a", secondaries)
    assert (summary.volumes, summary.consistent, summary.stopped) == (4, 2, 1)
    assert (summary.blocks_copied, summary.bytes_copied) == (6, 3 * 8192)
