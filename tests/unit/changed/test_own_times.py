"""Times of a volume into which a recording was imported: the writes' own times decide."""

from __future__ import annotations

import pytest
from logs import Log
from notation import command, recorded, volume

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.points import AnsweringClock, AtEnd, AtOrigin, AtPosition, AtTime, Point
from mirrorlog.changed.query import changed_blocks
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.errors import OutOfRetention

IMPORTED_S = 1000.0
"""The broker's time at which recordings are imported. Recordings are of the seconds before."""
VOLUME = volume(recorded_since_us=1_000_000, created_at_us=900_000_000)


def of_recording(text: str, **more: object) -> TrackingCommand:
    """Return a command of a recording: `3@7` is a write of block 7 in second 3."""
    words = (word.split("@") for word in text.split())
    return recorded(
        " ".join(f"{second}000000@{int(block) * 4096}+4096" for second, block in words), **more
    )


def live(block: int, first_s: float, last_s: float | None = None) -> TrackingCommand:
    """Return a write of a host."""
    last_us = int((first_s if last_s is None else last_s) * 1e6)
    return command(f"{block * 4096}+4096", first_at_us=int(first_s * 1e6), last_at_us=last_us)


def log_of(commands: list[TrackingCommand], flushes: str, appended: list[float]) -> Log:
    log = Log([VOLUME])
    log.publish(commands, appended)
    for count in flushes.split():
        log.flush(int(count))
    return log


def ask(log: Log, since: Point, until: Point | None = None) -> ChangedBlocks:
    return changed_blocks("v", since, until or AtEnd(), log.ports(), 0.0)


def answer(log: Log, asked: str) -> ChangedBlocks:
    since, until = (AtTime(round(float(second) * 1e6)) for second in asked.split(".."))
    return ask(log, since, until)


# seconds@blocks of each command of the recording | commands of each flush | since..until | blocks
RECORDED = """
1@0 2@1 3@2 / 4@3 5@4 6@5 | 1 1 | 2..4     | 2 3
1@0 2@1 3@2 / 4@3 5@4 6@5 | 2   | 2..4     | 2 3
1@0 2@1 3@2 / 4@3 5@4 6@5 | 1 1 | 1.5..2.5 | 1
1@0 2@1 3@2 / 4@3 5@4 6@5 | 1 1 | 0..900   | 0 1 2 3 4 5
1@0 2@1 3@2 / 4@3 5@4 6@5 | 1 1 | 6..900   |
1@0 2@1 3@2 / 4@3 5@4 6@5 | 1 1 | 3..3     |
5@0 2@1 / 9@2 1@3 / 4@4   | 1 2 | 1..4     | 1 4
5@0 2@1 / 9@2 1@3 / 4@4   | 3   | 1..4     | 1 4
5@0 2@1 / 9@2 1@3 / 4@4   | 2 1 | 4..8     | 0
1@0 1@1 / 1@2 2@0         | 1 1 | 1..2     | 0
"""


@pytest.mark.parametrize("case", RECORDED.strip().splitlines())
def test_the_answer_is_what_the_recording_wrote_then(case: str) -> None:
    commands, flushes, asked, blocks = (part.strip() for part in case.split("|"))
    rows = [of_recording(text) for text in commands.split("/")]
    log = log_of(rows, flushes, [IMPORTED_S] * len(rows))
    got = answer(log, asked)
    assert list(got.changed) == [int(block) for block in blocks.split()]
    assert got.asked.clock is AnsweringClock.OWN


# first-last seconds of a host's write, when the broker took it | since..until | whether it counts
HOSTS = """
1100 1110 1120 | 1000..1099 | no
1100 1110 1120 | 1000..1100 | yes
1100 1110 1120 | 1119..1130 | yes
1100 1110 1120 | 1121..1130 | no
1100 1110 1120 | 1..50      | no
   5   10 1120 | 1..50      | yes
   5   10 1120 | 1000..1050 | yes
2100 2110 1120 | 1100..1130 | yes
2100 2110 1120 | 1000..1050 | no
"""


@pytest.mark.parametrize("case", HOSTS.strip().splitlines())
@pytest.mark.parametrize("flushes", ["1 1 1", "2 1", "3"])
def test_a_write_of_a_host_counts_at_its_own_time_and_at_the_brokers(
    case: str, flushes: str
) -> None:
    times, asked, counts = (part.strip() for part in case.split("|"))
    first_s, last_s, appended_s = (float(second) for second in times.split())
    commands = [of_recording("1@0 60@1"), live(2, first_s, last_s), of_recording("70@3")]
    log = log_of(commands, flushes, [IMPORTED_S, appended_s, appended_s])
    assert (2 in answer(log, asked).changed) is (counts == "yes")


def test_a_question_about_times_and_positions_is_about_both() -> None:
    log = log_of([of_recording("1@0 2@1"), of_recording("1@2 2@3")], "1 1", [IMPORTED_S] * 2)
    second = AtTime(1_500_000)
    assert list(ask(log, second, AtPosition(0)).changed) == [1]
    assert list(ask(log, AtPosition(0), second).changed) == [2]
    assert list(ask(log, second).changed) == [1, 3]
    assert list(ask(log, AtOrigin(), second).changed) == [0, 2]
    assert ask(log, AtPosition(-1), AtPosition(0)).asked.clock is None


@pytest.mark.parametrize("flushes", ["1 1 1", "2 1", "3"])
@pytest.mark.parametrize("second", range(11))
def test_the_next_question_may_begin_at_the_position_where_an_answer_ends(
    flushes: str, second: int
) -> None:
    texts = ["5@0 2@1", "9@2 1@3", "4@4"]
    log = log_of([of_recording(text) for text in texts], flushes, [IMPORTED_S] * 3)
    until = ask(log, AtOrigin(), AtTime(second * 1_000_000))
    later = {block for at_s, block in ((5, 0), (2, 1), (9, 2), (1, 3), (4, 4)) if at_s > second}
    assert set(until.changed) == set(range(5)) - later
    assert later <= set(ask(log, AtPosition(until.until)).changed)
    assert ask(log, AtTime(second * 1_000_000)).since == until.until


def test_the_history_begins_where_the_recording_does() -> None:
    log = log_of([of_recording("1@0 2@1")], "1", [IMPORTED_S])
    assert answer(log, "0.5..3").asked.volume_began_us == 1_000_000
    assert list(answer(log, "0.5..3").changed) == [0, 1]
    assert answer(log, "1..3").asked.volume_began_us is None


def test_what_was_cut_off_may_have_any_time() -> None:
    commands = [of_recording("1@0"), of_recording("2@1"), of_recording("3@2")]
    log = log_of(commands, "1 1 1", [IMPORTED_S] * 3)
    log.lose_records([0])
    with pytest.raises(OutOfRetention, match="may have any time"):
        answer(log, "1..3")
    assert list(ask(log, AtPosition(0), AtTime(2_000_000)).changed) == [1]


def test_a_renewed_volume_answers_from_its_renewal_on() -> None:
    renewed = volume(
        recorded_since_us=1_000_000, created_at_us=900_000_000, first_created_at_us=800_000_000
    )
    log = Log([renewed])
    log.publish([of_recording("1@0"), live(1, 950)], [IMPORTED_S] * 2)
    log.flush(2)
    with pytest.raises(OutOfRetention, match="may have any time"):
        answer(log, "1..3")
    assert list(answer(log, "900..960").changed) == [1]


def test_whole_records_need_no_commands() -> None:
    log = log_of([of_recording("1@0 2@1"), of_recording("3@2 4@3")], "1 1", [IMPORTED_S] * 2)
    log.broker.trim(log.topics.commands, 0, 2)
    assert list(answer(log, "2..4").changed) == [2, 3]
    with pytest.raises(OutOfRetention, match="no longer kept"):
        answer(log, "3..4")
