"""What `changed` answers and what it refuses, on a broker in memory with the real planner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from logs import Log
from notation import OTHER_GENERATION, command, record, site_progress, volume

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.points import AtEnd, AtOrigin, AtPosition, AtTime, Point, parse_point
from mirrorlog.changed.query import changed_blocks
from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import CommandKind, RawCommand, TrackingCommand, WireProtocol
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, KafkaFailed, OutOfRetention
from mirrorlog.ports.streams import Message
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryReader
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import position_time_key, record_key, watermark_key

NOW_US = 1_000_000_000


def folded(
    commands: Sequence[TrackingCommand | bytes],
    flushes: str,
    of: Volume | None = None,
    appended_s: Sequence[float] | None = None,
) -> Log:
    """Return a log of these commands. `flushes` names the number of commands in each flush.

    appended_s: the broker's time of each command, as in Log.publish.
    """
    log = Log([of or volume()])
    log.publish(commands, appended_s)
    for count in flushes.split():
        log.flush(int(count))
    return log


def ask(
    log: Log, since: str | Point = "origin", until: str | Point = "now", patience_s: float = 0.0
) -> ChangedBlocks:
    points = [
        parse_point(point, NOW_US) if isinstance(point, str) else point for point in (since, until)
    ]
    return changed_blocks("v", *points, log.ports(), patience_s)


def at(position: int, seconds: int, last: int | None = None, **more: object) -> TrackingCommand:
    """Return a write of block `position`, made at that second."""
    times = {
        "first_at_us": seconds * 10**6,
        "last_at_us": (seconds if last is None else last) * 10**6,
    }
    return command(f"{position * 4096}+4096", sequence=position, **(times | more))


# seconds of the commands at 0, 1, 2, ... (first-last) | commands of each flush
# | since..until in seconds | blocks
TIMES = """
1 2 3 4 5 6       | 3 3  | 2..4   | 2 3
1 2 3 4 5 6       | 6    | 2..4   | 2 3
1 2 3 4 5 6       | 1 5  | 0..9   | 0 1 2 3 4 5
1 2 3 4 5 6       | 2 4  | 6..9   |
1 2 3 4 5 6       | 2 4  | 0..0   |
1-3 2-4 5-7       | 3    | 3..5   | 1 2
1-3 2-4 5-7       | 1 2  | 3..4   | 1
1 9 2 3           | 4    | 5..6   | 1 2 3
1 9 2 3           | 2 2  | 5..6   | 1 2 3
1 9 2 3           | 2 2  | 2..2   | 1 2
8 1 9 2           | 1 3  | 3..5   | 0 1 2 3
"""


@pytest.mark.parametrize("case", TIMES.strip("\n").splitlines())
def test_times_round_outwards_however_clocks_went(case: str) -> None:
    seconds, flushes, asked, blocks = (part.strip() for part in case.split("|"))
    spans = [[int(second) for second in span.split("-")] for span in seconds.split()]
    log = folded([at(number, span[0], span[-1]) for number, span in enumerate(spans)], flushes)
    since, until = (AtTime(int(second) * 10**6) for second in asked.split(".."))
    assert list(ask(log, since, until).changed) == [int(block) for block in blocks.split()]


HOUR_S = 3600

# seconds by the broker | by the hosts, whose clocks are hours off | since..until | blocks
CLOCKS = """
100 200 300 400 | -2h -2h -2h -2h | 250..900 | 2 3
100 200 300 400 | -2h -2h -2h -2h | 0..250   | 0 1 2 3
100 200 300 400 | +2h +2h +2h +2h | 250..900 | 0 1 2 3
100 200 300 400 | +2h +2h +2h +2h | 0..250   | 0 1
100 200 300 400 | +0h -2h +0h -2h | 350..900 | 3
100 200 300 400 | +0h +0h -2h +0h | 250..900 | 2 3
"""


@pytest.mark.parametrize("case", CLOCKS.strip().splitlines())
def test_no_write_is_left_out_because_a_hosts_clock_is_hours_off(case: str) -> None:
    appended, ahead, asked, blocks = (part.strip() for part in case.split("|"))
    appended_s = [int(second) + 10 * HOUR_S for second in appended.split()]
    commands = [
        at(number, second + int(hours.removesuffix("h")) * HOUR_S)
        for number, (second, hours) in enumerate(zip(appended_s, ahead.split(), strict=True))
    ]
    log = folded(commands, "2 2", appended_s=appended_s)
    since, until = (AtTime((int(s) + 10 * HOUR_S) * 10**6) for s in asked.split(".."))
    assert list(ask(log, since, until).changed) == [int(block) for block in blocks.split()]


# the origin, when the volume was created | since | blocks, and whether it is younger than since
CREATED = """
-1 150 | 100 | 0 1 2 younger
-1 150 | 160 | 0 1 2
-1 350 | 250 | 1 2
-1 350 | 150 | 0 1 2 younger
 0 250 | 150 | 1 2 younger
 0 250 | 260 | 1 2
 0 350 | 250 | 1 2 younger
 0 350 | 310 | 2
"""


@pytest.mark.parametrize("case", CREATED.strip("\n").splitlines())
def test_a_volume_younger_than_the_time_is_answered_from_its_creation_and_says_so(
    case: str,
) -> None:
    made, since, answer = (part.strip() for part in case.split("|"))
    origin, created = made.split()
    mine = volume(origin_position=int(origin), created_at_us=int(created) * 10**6)
    log = folded([at(n, 0) for n in range(3)], "1 1 1", mine, appended_s=[200, 300, 400])
    point = AtTime(int(since) * 10**6)
    asked = ask(log, point)
    assert list(asked.changed) == [int(block) for block in answer.removesuffix("younger").split()]
    assert asked.asked.since_us == point.at_us
    is_younger = answer.endswith("younger")
    assert asked.asked.volume_began_us == (mine.created_at_us if is_younger else None)
    if not is_younger:
        return
    assert asked.since == mine.origin_position
    # After a renewal the log begins later than the volume: what was written before isn't known.
    renewed = replace(mine, first_created_at_us=50 * 10**6)
    log = folded([at(n, 0) for n in range(3)], "1 1 1", renewed, appended_s=[200, 300, 400])
    with pytest.raises(OutOfRetention, match="doesn't reach back to that time"):
        ask(log, point)


def test_a_younger_volume_whose_log_was_cut_is_out_of_retention() -> None:
    mine = volume(created_at_us=150 * 10**6)
    log = folded([at(n, 0) for n in range(4)], "2 2", mine, appended_s=[200, 300, 400, 500])
    assert list(ask(log, AtTime(100 * 10**6)).changed) == [0, 1, 2, 3]
    log.lose_records([0])
    with pytest.raises(OutOfRetention, match="doesn't reach back to that time"):
        ask(log, AtTime(100 * 10**6))


def test_an_end_before_the_volume_was_created_is_out_of_retention() -> None:
    mine = volume(created_at_us=150 * 10**6)
    log = folded([at(n, 0) for n in range(3)], "1 1 1", mine, appended_s=[200, 300, 400])
    with pytest.raises(OutOfRetention, match="doesn't reach back to that time"):
        ask(log, AtOrigin(), AtTime(100 * 10**6))


def note_times(log: Log, *times: tuple[int, int]) -> None:
    """Put position times into the changelog, each (through, seconds by the broker)."""
    for through, second in times:
        time = Watermark(partition=0, through=through, at_us=second * 10**6)
        log.broker.append(
            log.topics.changelog, 0, position_time_key(0, at_us=time.at_us), encode(time)
        )


def test_where_the_commands_of_a_time_are_gone_the_position_times_tell() -> None:
    slow = [at(number, 1) for number in range(6)]
    log = folded(slow, "2 2 2", appended_s=[100, 200, 300, 400, 500, 600])
    log.broker.trim(log.topics.commands, 0, 5)
    assert list(ask(log, AtTime(350 * 10**6)).changed) == [0, 1, 2, 3, 4, 5]
    note_times(log, (1, 200), (3, 400))
    assert list(ask(log, AtTime(350 * 10**6)).changed) == [2, 3, 4, 5]
    log.lose_records([0])
    assert list(ask(log, AtTime(350 * 10**6)).changed) == [2, 3, 4, 5]
    with pytest.raises(OutOfRetention, match="doesn't reach back to that time"):
        ask(log, AtTime(150 * 10**6))


@pytest.mark.parametrize("recorded_since_us", [None, 10**6])
def test_the_position_times_are_read_once_for_both_points(
    recorded_since_us: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = volume(recorded_since_us=recorded_since_us)
    log = folded([at(number, 1) for number in range(6)], "6", described, [*range(100, 700, 100)])
    log.broker.trim(log.topics.commands, 0, 5)
    note_times(log, (1, 200), (3, 400))
    assigned: list[str] = []
    assign = MemoryReader.assign

    def noted(self: MemoryReader, topic: str, positions: Mapping[int, int | None]) -> None:
        assigned.append(topic)
        assign(self, topic, positions)

    monkeypatch.setattr(MemoryReader, "assign", noted)
    ask(log, AtTime(0), AtTime(450 * 10**6))
    assert assigned.count(log.topics.changelog) == 2  # the log, and its position times


def test_a_host_in_1970_doesnt_make_a_log_that_was_cut_look_whole() -> None:
    log = folded([at(n, 0) for n in range(4)], "2 2", appended_s=[100, 200, 300, 400])
    log.lose_records([0])
    with pytest.raises(OutOfRetention, match="doesn't reach back to that time"):
        ask(log, AtTime(150 * 10**6))
    assert list(ask(log, AtTime(250 * 10**6)).changed) == [2, 3]


def test_times_of_hosts_on_the_topic_arent_trusted() -> None:
    """The topic held hosts' times, and the host's clock was two hours behind."""
    log = Log([volume()])
    log.broker.host_times = {log.topics.commands}
    log.broker.host_clock = ManualClock(now_s=0)
    log.publish([at(0, 0), at(1, 0)], [7200, 7300])
    log.broker.host_times = set()
    log.publish([at(2, 400)], [7400])
    log.flush(3)
    assert list(ask(log, AtTime(7250 * 10**6)).changed) == [0, 1, 2]
    assert list(ask(log, AtTime(7350 * 10**6)).changed) == [0, 1, 2]
    log.publish([at(3, 500)], [7500])
    log.flush(1)
    assert list(ask(log, AtTime(7450 * 10**6)).changed) == [3]


def test_a_command_that_dirties_nothing_is_no_place_in_time() -> None:
    second = 10**6
    empty = command("4096+0", sequence=1, first_at_us=9 * second, last_at_us=9 * second)
    log = folded([at(0, 1), empty, at(2, 5)], "2 1", appended_s=[1, 4, 5])
    assert list(ask(log, AtTime(3 * second), AtTime(20 * second)).changed) == [2]
    assert list(ask(log, AtTime(0), AtTime(3 * second)).changed) == [0]


def test_hosts_times_and_writes_are_of_the_range_alone() -> None:
    log = folded([at(n, n + 1, n + 2, host=f"h{n}") for n in range(6)], "1 2 3")
    answer = ask(log, "@1", "@4")
    assert (answer.since, answer.until, list(answer.changed)) == (1, 4, [2, 3, 4])
    assert (answer.hosts, answer.writes) == (("h2", "h3", "h4"), 3)
    assert (answer.first_write_at_us, answer.last_write_at_us) == (3_000_000, 6_000_000)
    nothing = ask(log, "@4", "@4")
    assert (nothing.hosts, nothing.first_write_at_us, nothing.writes) == ((), None, 0)


# commands | how many a flush took | since | zero blocks
ZEROS = """
z0+8192                          | 1   | origin | 0 1
z0+8192; d8192+4096              | 2   | origin | 0 1 2
z0+8192; 4096+1                  | 1 1 | origin | 0
z0+8192; 4096+1                  | 2   | origin |
z0+8192; 4096+1                  | 2   | @0     |
4096+1; z0+8192                  | 1 1 | origin | 0
4096+1; z0+8192                  | 2   | @0     | 0 1
z0+8192; z0+8192                 | 2   | origin |
0+1; z0+8192; z4096+4096         | 3   | @0     | 0 1
z0+4096; 0+2048; 4096+2048       | 3   | origin |
z0+6000                          | 1   | origin |
0+1; z0+6000; z4096+8192         | 3   | @0     | 0 1 2
z1044480+4096                    | 1   | origin | 255
20480+1; M z0+4096               | 2   | @0     |
"""


@pytest.mark.parametrize("case", ZEROS.strip("\n").splitlines())
def test_zero_only_where_nothing_can_have_written_to_the_block(case: str) -> None:
    texts, flushes, since, zero = (part.strip() for part in case.split("|"))
    commands = []
    for number, text in enumerate(texts.split(";")):
        kind = CommandKind.MARK_DIRTY if text.strip().startswith("M") else CommandKind.WRITES
        commands.append(command(text.replace("M", ""), sequence=number, kind=kind))
    assert list(ask(folded(commands, flushes), since).zeroed) == [
        int(block) for block in zero.split()
    ]


def test_a_raw_command_at_an_edge_counts_as_the_node_counts_it() -> None:
    raw = (RawCommand(WireProtocol.SCSI, b"\xff" * 10),)
    log = folded(
        [
            at(0, 1),
            command(kind=CommandKind.RAW, raw=raw, logical_block_bytes=512, sequence=1),
            at(2, 3),
        ],
        "3",
    )
    whole = list(range(volume().blocks))
    assert (
        list(ask(log).changed)
        == list(ask(log, "@0").changed)
        == list(ask(log, "@0", "@1").changed)
        == whole
    )
    assert list(ask(log, "@1").changed) == [2]


def barrier(name: str) -> TrackingCommand:
    return command(kind=CommandKind.BARRIER, note=name, sequence=-1)


def test_a_barrier_is_the_newest_of_its_name() -> None:
    log = folded(
        [at(0, 1), barrier("b"), at(2, 2), barrier("b"), at(4, 3), barrier("c"), at(6, 4)], "7"
    )
    assert list(ask(log, "barrier:b", "barrier:c").changed) == [4]
    with pytest.raises(BadUse, match="no barrier 'd'"):
        ask(log, "barrier:d")


def test_a_site_is_where_it_has_applied() -> None:
    log = folded([at(n, n) for n in range(4)], "2 2")
    for position in (0, 1):
        log.report(site_progress(generation=volume().generation, applied_position=position))
    assert list(ask(log, "site:s").changed) == [2, 3]
    with pytest.raises(BadUse, match="Sites that have: s"):
        ask(log, "site:t")
    log.report(site_progress(generation=OTHER_GENERATION, applied_position=1))
    with pytest.raises(OutOfRetention, match="generation"):
        ask(log, "site:s")


def test_now_waits_for_the_node() -> None:
    log = folded([at(n, n) for n in range(4)], "2")
    assert list(ask(log, until="@1").changed) == [0, 1]
    with pytest.raises(KafkaFailed, match="isn't complete through position 3"):
        ask(log)
    log.on_poll(lambda: log.flush(2))
    assert list(ask(log, patience_s=5).changed) == [0, 1, 2, 3]


def test_records_that_were_rolled_up_count_though_an_older_watermark_came_before_them() -> None:
    log = folded([at(n, n) for n in range(4)], "2 2")
    log.lose_records([0, 1])
    rolled = record("-1..3", "0-3")
    log.broker.append(log.topics.changelog, 0, record_key(rolled), encode(rolled))
    log.broker.append(
        log.topics.changelog,
        0,
        watermark_key(0),
        encode(Watermark(partition=0, through=3, at_us=0)),
    )
    log.at_once = 1
    assert list(ask(log, until="@1", patience_s=5).changed) == [0, 1]


def test_a_volume_without_a_command_has_no_change() -> None:
    assert list(ask(Log([volume()])).changed) == []


def test_below_the_origin_is_out_of_retention() -> None:
    mine = volume(origin_position=2, created_at_us=1_700_000_000_000_000, first_created_at_us=1)
    log = folded([at(n, 1_700_000_000 + n) for n in range(6)], "6", mine)
    assert list(ask(log).changed) == [3, 4, 5]
    for asked in ("@1", "2023-11-14T22:13:19Z"):
        with pytest.raises(
            OutOfRetention, match=r"from position 2 on, 2023-11-14T22:13:20.000000Z: --since @2"
        ):
            ask(log, asked)


def test_blocks_behind_the_end_of_a_volume_that_shrank_arent_listed() -> None:
    log = folded([at(0, 1), command("z4096+8192", sequence=1), at(3, 3)], "3")
    smaller = volume(size_bytes=8000)
    log.broker.append(log.topics.volumes, 0, b"v", encode(smaller))
    assert list(ask(log).changed) == [0, 1]
    assert list(ask(log, "@0").zeroed) == [1]


def test_what_isnt_there_or_goes_backwards_is_bad_use() -> None:
    log = folded([at(n, n) for n in range(4)], "4")
    backwards = [(AtPosition(2), AtPosition(1)), (AtEnd(), AtOrigin()), (AtTime(2), AtTime(1))]
    for since, until in backwards:
        with pytest.raises(BadUse, match="lies after"):
            ask(log, since, until)
    with pytest.raises(BadUse, match="no volume 'w'"):
        changed_blocks("w", AtOrigin(), AtEnd(), log.ports(), 0)


# flushes whose records are removed | since..until | blocks, or the position and the second from
# which the log can answer
HOLES = """
1     | -1..1  | 0 1
1     | -1..2  | from 3 5
1     | 1..3   | from 3 5
1     | 2..5   | from 3 5
1     | 3..5   | 4 5
2     | 1..3   | 2 3
2     | 3..4   | from 5
0     | 1..5   | 2 3 4 5
0     | t3..t9 | 3 4 5
0     | t2..t9 | 2 3 4 5
0     | t1..t9 | from 1 3
0 2   | -1..5  | from 5
0 1   | t4..t9 | 4 5
0 1   | t3..t9 | from 3 5
0 1   | t5..t5 |
0 1 2 | 4..5   | from 5
0 1 2 | t3..t9 | from 5
"""


@pytest.mark.parametrize("case", HOLES.strip("\n").splitlines())
def test_a_hole_is_said_with_the_position_and_time_from_which_on_the_log_can_answer(
    case: str,
) -> None:
    gone, asked, expected = (part.strip() for part in case.split("|"))
    log = folded([at(n, n + 1) for n in range(6)], "2 2 2")
    log.lose_records([int(position) for position in gone.split()])
    since, until = (
        AtTime(int(point[1:]) * 10**6) if point.startswith("t") else AtPosition(int(point))
        for point in asked.split("..")
    )
    if not expected.startswith("from"):
        assert list(ask(log, since, until).changed) == [int(block) for block in expected.split()]
        return
    position, *second = expected.split()[1:]
    with pytest.raises(OutOfRetention) as out:
        ask(log, since, until)
    time = f", 1970-01-01T00:00:0{second[0]}.000000Z" if second else ""
    assert f"from position {position} on{time}: --since @{position}." in out.value.next


def test_where_the_commands_are_gone_only_whole_records_can_be_answered() -> None:
    log = folded([at(n, n + 1) for n in range(6)], "3 3")
    log.broker.trim(log.topics.commands, 0, 5)
    assert list(ask(log, "@2").changed) == [3, 4, 5]
    assert list(ask(log, "@2", "@5").changed) == [3, 4, 5]
    for since, until, says in (("@1", "@5", "@-1 or @2"), ("@2", "@3", "@2 or @5")):
        with pytest.raises(OutOfRetention, match=f"a record ends: {says}"):
            ask(log, since, until)
    # A time is rounded outwards to the record that has it.
    assert list(ask(log, AtTime(2_000_000), AtTime(4_000_000)).changed) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(OutOfRetention, match="no barrier 'b' is in the commands that are kept"):
        ask(log, "barrier:b")


@pytest.mark.parametrize("host", ["h2", "import:fio:1"])
def test_old_times_behind_the_edge_of_retention_dont_make_a_hole_look_answered(host: str) -> None:
    commands = [at(0, 1000), at(2, 2000), at(4, 2000)]
    commands.insert(1 if host.startswith("import:") else 3, at(6, 10, host=host, session="t"))
    log = folded(commands, "1 1 1 1")
    log.lose_records([0])
    with pytest.raises(OutOfRetention):
        ask(log, AtTime(500 * 10**6))
    assert ask(log, AtTime(2000 * 10**6)).since >= 0


def test_a_time_is_looked_up_in_the_finest_records_that_are_left() -> None:
    log = folded([at(second, second) for second in range(100)], "1 " * 100)
    whole = replace(record("-1..99", "0-99"), tier=3, first_at_us=0, last_at_us=99 * 10**6)
    log.broker.append(log.topics.changelog, 0, record_key(whole), encode(whole))
    log.flush(1)
    ports, read = log.ports(), 0

    class Counting:
        def __init__(self) -> None:
            self._reader = log.open_reader()

        def __getattr__(self, name: str) -> object:
            return getattr(self._reader, name)

        def assign(self, topic: str, positions: dict[int, int | None]) -> None:
            self._is_counted = topic == log.topics.commands
            self._reader.assign(topic, positions)

        def poll(self, timeout_s: float) -> Sequence[Message]:
            nonlocal read
            messages = self._reader.poll(timeout_s, max_messages=1)
            read += len(messages) if self._is_counted else 0
            return messages

    ports = replace(ports, open_reader=Counting)  # type: ignore[arg-type]
    answer = changed_blocks("v", AtTime(40 * 10**6), AtTime(60 * 10**6), ports, 0)
    assert list(answer.changed) == list(range(41, 61))
    # The broker's times are looked up among the commands before `since`, and twice before `until`.
    assert read <= 42 + 62 + 62
