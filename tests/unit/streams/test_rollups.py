"""Roll-ups: what becomes one record, what it holds, and in which order it replaces its parts (invariants 3, 5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from clocks import HandClock
from notation import GENERATION, OTHER_GENERATION, record, volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.bitmaps import BitMap64, pack, union
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.streams.compaction import rollups
from mirrorlog.streams.compaction.compactor import CompactionSettings, LogCompactor, Row
from mirrorlog.streams.compaction.position_times import position_at, sound, superfluous
from mirrorlog.streams.compaction.retention import Limit, kept_at_all_s, kept_once_held_s, limit
from mirrorlog.streams.compaction.rollups import (
    Entry,
    Holders,
    Source,
    chains,
    header,
    is_within,
    pieces,
    united,
)
from mirrorlog.tracking_log.coverage import Hole, VolumeLog
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.keys import key_kind, read_record_key, record_key
from mirrorlog.tracking_log.records import LogRecord


def entry_of(each: LogRecord) -> Entry:
    return Entry(each.tier, each.after, each.through, tuple(range(each.parts)))


def source(text: str) -> Source:
    """`3..7` as in notation.record; `g3..7` of another generation."""
    found = record(text.lstrip("g"), "1")
    found = replace(found, generation=OTHER_GENERATION if text.startswith("g") else GENERATION)
    return Source(entry_of(found), found, 100)


# records of one tier | the chains that they make
CHAINS = """
-1..4 4..9                | -1..9
4..9 -1..4                | -1..9
-1..4 2..9 5..7           | -1..9
-1..4 5..9                | -1..4 5..9
-1..4 4..6 7..9 9..12     | -1..6 7..12
-1..4 g4..9 4..9 g9..12   | -1..9 g4..12
-1..9 g2..5 g5..7         | -1..9 g2..7
-1..4 3..4 3..5 4..5      | -1..5
"""


@pytest.mark.parametrize("case", CHAINS.strip().splitlines())
def test_chains_have_no_hole_and_one_generation(case: str) -> None:
    given, expected = (part.split() for part in case.split("|"))
    found = []
    for chain in chains(source(text) for text in given):
        whole = header(1, chain)
        found.append(
            f"{'g' if whole.generation == OTHER_GENERATION else ''}{whole.after}..{whole.through}"
        )
    assert found == expected


def test_a_chain_is_cut_where_it_would_take_too_much_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollups, "MOST_SOURCES", 2)
    texts = [f"{n}..{n + 1}" for n in range(5)]
    assert [len(chain) for chain in chains(source(text) for text in texts)] == [2, 2, 1]


def test_counts_and_times_are_those_of_a_cover() -> None:
    spans = {"-1..4": (5, 7, ("a",)), "1..3": (1, 2, ("a",)), "4..9": (3, 30, ("b",))}
    chain = []
    for text, (first, last, hosts) in spans.items():
        found = replace(
            source(text).first, first_at_us=first, last_at_us=last, hosts=hosts, writes=10
        )
        chain.append(Source(entry_of(found), found, 0))
    whole = header(2, chains(chain)[0])
    assert (whole.tier, whole.first_at_us, whole.last_at_us, whole.hosts, whole.writes) == (
        2,
        1,
        30,
        ("a", "b"),
        20,
    )


def parts(blocks: BitMap64, zeroed: BitMap64, most: int) -> Iterator[LogRecord]:
    """A record of those blocks in parts."""
    for piece in pieces([(blocks, zeroed)] if blocks else [], most):
        if piece is not None:
            yield replace(record("-1..9"), changed=piece[0], zeroed=piece[1])


def scattered(random: Random) -> BitMap64:
    found = BitMap64()
    for _ in range(random.randint(1, 40)):
        first = random.choice((0, (1 << 26) - 50, 3 << 26, 1 << 40)) + random.randrange(
            1 << random.randint(1, 18)
        )
        found.add_range(first, first + random.choice((1, 2, 700)))
    return found


def test_pieces_hold_what_the_records_held_and_depend_on_nothing_else() -> None:
    random = Random(1)
    for _ in range(15):
        sets = [scattered(random) for _ in range(3)]
        zeros = [BitMap64([b for b in blocks if b % 3 == 0]) for blocks in sets]
        everything, zeroed = union(sets), union(zeros)
        ways = []
        for cut in (120, 1000, 10**6):
            given = [parts(*each, cut) for each in zip(sets, zeros, strict=True)]
            ways.append([piece for piece in pieces(united(given), 400) if piece is not None])
        for way in ways:
            assert all(
                len(pack(blocks)) + len(pack(zero)) <= 400 or len(blocks) == 1
                for blocks, zero in way
            )
            assert [(pack(a), pack(b)) for a, b in way] == [(pack(a), pack(b)) for a, b in ways[0]]
            assert (union(a for a, _ in way), union(b for _, b in way)) == (everything, zeroed)
            assert all(low[0].max() < high[0].min() for low, high in pairwise(way))


@pytest.mark.parametrize(
    ("more", "more_zeroed", "within"),
    [((), (), True), ((1 << 27,), (), False), ((7,), (), False), ((), (9,), False)],
)
def test_one_record_is_proved_to_hold_others(
    more: Sequence[int], more_zeroed: Sequence[int], within: bool
) -> None:
    whole = BitMap64([1, 9, 1 << 26, 1 << 40])
    given = [(BitMap64([1, 9]), BitMap64(more_zeroed)), (BitMap64([1 << 40, *more]), BitMap64())]
    held = united([parts(whole, BitMap64(), 100)])
    *_, answer = is_within(united([parts(*each, 100) for each in given]), held)
    assert answer is within


def test_a_holder_is_the_lowest_record_above_that_covers_all() -> None:
    found = [Entry(1, -1, 9), Entry(1, 3, 5), Entry(2, -1, 30), Entry(3, 40, 50)]
    holders = Holders(found)
    asked = (
        Entry(0, 4, 9),
        Entry(0, 9, 12),
        Entry(1, 3, 5),
        Entry(2, 3, 5),
        Entry(3, 40, 50),
        Entry(0, 39, 45),
    )
    assert [holders.holder(each) for each in asked] == [
        found[0],
        found[2],
        found[2],
        None,
        None,
        None,
    ]


class FakeTable:
    """Rows of partition 0, and in which order they were written: `+`/`-` tier after..through, `W` for a watermark."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.flushed: dict[str, int] = {}
        self.through, self.done = -1, ""

    def flush(self, text: str, blocks: str, **more: object) -> None:
        found = replace(record(text, blocks), **more)  # type: ignore[arg-type]
        self.rows[record_key(found)] = encode(found)
        self.flushed.setdefault(found.volume, found.after)
        self.through = max(self.through, found.through)

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        return sorted(key for key in self.rows if start <= key < end)[:limit]

    def complete_through(self, partition: int) -> int:
        return self.through

    def take_flushed(self, partition: int) -> Mapping[str, int]:
        taken, self.flushed = self.flushed, {}
        return taken

    async def append(self, partition: int, rows: Sequence[Row]) -> None:
        for key, value in rows:
            self.rows.pop(key, None) if value is None else self.rows.update({key: value})
            if key_kind(key) is LogRecord:
                each = read_record_key(key)
                self.done += (
                    f"{'-' if value is None else '+'}{each.tier} {each.after}..{each.through} "
                )

    async def repeat_watermark(self, partition: int) -> None:
        self.done += "W "

    def records(self) -> list[LogRecord]:
        return [
            decode(value, LogRecord)
            for key, value in sorted(self.rows.items())
            if key_kind(key) is LogRecord
        ]


class FakeReports:
    def __init__(self) -> None:
        self.said: list[SiteProgress] = []

    def refresh(self) -> None: ...

    def of(self, name: str) -> Sequence[SiteProgress]:
        return self.said


def progress(site: str, applied: int | None) -> SiteProgress:
    return SiteProgress(
        site, "v", GENERATION, SiteState.BEHIND, None, applied, None, None, 0, 0, 0, 0, 0, 0
    )


class Desk:
    """A table looked after by a clock that is moved by hand."""

    def __init__(
        self,
        keep_s: Mapping[str, float] | None = None,
        past_s: float | None = None,
        record_max_bytes: int = 900_000,
    ) -> None:
        self.table, self.clock, self.reports = FakeTable(), HandClock(1_000_000.0), FakeReports()
        self.volumes: dict[str, Volume] = {}
        nothing_kept = {"second": 0.0, "minute": 0.0, "hour": 0.0}
        self.compaction_settings = CompactionSettings(
            (60, 3600, 86_400), keep_s or nothing_kept, past_s, record_max_bytes
        )
        self.restart()

    def restart(self) -> None:
        self.compactor = LogCompactor(
            self.table, self.volumes, lambda: self.reports, self.clock, self.compaction_settings
        )

    def work(self) -> float:
        """Until there is nothing left for now; how long until there is."""

        async def turns() -> float:
            for _ in range(1000):
                if rest_s := await self.compactor.work(0):
                    return rest_s
            pytest.fail("the work never ends")

        return asyncio.run(turns())

    def after(self, seconds: float, steps: int = 4) -> str:
        """What is done in that time."""
        self.table.done = ""
        self.work()
        for _ in range(steps):
            self.clock.now_s += seconds / steps
            self.work()
        return self.table.done.strip()


def test_the_roll_up_first_then_the_watermark_then_the_tombstones() -> None:
    desk = Desk()
    desk.work()
    for text in ("-1..4", "4..6", "6..9"):
        desk.table.flush(text, "1 2")
    assert desk.after(60) == "+1 -1..9 W -0 -1..4 -0 4..6 -0 6..9"
    assert desk.after(86_400) == ""  # one of its tier alone waits for its next
    desk.table.flush("9..12", "3")
    assert desk.after(86_400) == ""
    desk.table.flush("12..15", "3")
    assert desk.after(3600, 60) == "+1 9..15 W -0 9..12 -0 12..15 +2 -1..15 W -1 -1..9 -1 9..15"
    (left,) = desk.table.records()
    assert (left.tier, list(left.changed), left.writes) == (2, [1, 2, 3], 5)


def test_a_volume_with_nothing_new_costs_nothing() -> None:
    desk = Desk()
    for number in range(5):
        desk.table.flush(f"{number}..{number + 1}", "1")
    desk.after(3 * 86_400)
    asked: list[bytes] = []
    keys = desk.table.keys
    desk.table.keys = lambda *words: asked.append(words[1]) or keys(*words)  # type: ignore[method-assign,func-returns-value]
    assert (desk.after(86_400), asked) == ("", [])


def test_finer_records_are_kept_for_as_long_as_their_tier_says() -> None:
    desk = Desk({"second": 600.0, "minute": 7200.0})
    desk.volumes["w"] = volume("w", keep_s={"second": 0})
    desk.work()
    for name in "vw":
        for text in ("-1..4", "4..9"):
            desk.table.flush(text, "1", volume=name)
    assert desk.after(60) == "+1 -1..9 +1 -1..9 W -0 -1..4 -0 4..9"
    desk.table.through = 20
    assert desk.after(540, 9) == ""
    assert desk.after(240) == "W -0 -1..4 -0 4..9"


def test_what_a_crash_left_beside_its_roll_up_goes_when_it_is_proved_to_be_held() -> None:
    desk = Desk()
    for text in ("-1..4", "4..9", "9..12"):
        desk.table.flush(text, "1 2")
    desk.table.flush("-1..9", "1 2", tier=1)
    desk.restart()
    assert desk.after(60) == "W -0 -1..4 -0 4..9"
    assert desk.after(0) == ""


def test_what_the_roll_up_above_it_doesnt_hold_stays_and_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    desk.table.flush("-1..4", "1 2")
    desk.table.flush("4..9", "3")
    desk.table.flush("-1..9", "1 2", tier=1)
    desk.restart()
    with caplog.at_level(logging.ERROR):
        assert desk.after(7200) == "W"
    assert "doesn't hold all that its parts do" in caplog.text


def test_generations_and_holes_are_never_bridged() -> None:
    desk = Desk()
    desk.work()
    for text, more in (
        ("-1..4", {}),
        ("4..6", {}),
        ("6..8", {"generation": OTHER_GENERATION}),
        ("10..12", {}),
    ):
        desk.table.flush(text, "1", **more)
    assert desk.after(60) == "+1 -1..6 W -0 -1..4 -0 4..6"
    assert desk.after(86_400) == ""


def test_what_the_watermark_doesnt_cover_yet_waits() -> None:
    desk = Desk()
    desk.work()
    for text in ("-1..4", "4..6", "6..9"):
        desk.table.flush(text, "1")
    desk.table.through = 6
    assert desk.after(60) == "+1 -1..6 W -0 -1..4 -0 4..6"


def test_a_damaged_record_or_one_with_a_part_missing_stays_and_the_others_go_on() -> None:
    desk = Desk()
    desk.work()
    for text in ("-1..4", "4..6", "6..7", "7..8/0of2", "8..9", "9..11"):
        desk.table.flush(text, "1 2 3")
    (damaged,) = (key for key in desk.table.rows if read_record_key(key).through == 4)
    desk.table.rows[damaged] = desk.table.rows[damaged][:-3]
    assert desk.after(60) == "+1 4..7 +1 8..11 W -0 4..6 -0 6..7 -0 8..9 -0 9..11"


@pytest.mark.parametrize("held", [64, 2])
def test_a_large_record_becomes_parts_in_turns_of_little_work(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirrorlog.streams.compaction.compactor._PIECES_HELD", held)
    desk = Desk(record_max_bytes=1000)
    desk.work()
    random = Random(2)
    sets = [BitMap64(random.sample(range(1 << 20), 2000)) for _ in range(4)]
    for number, blocks in enumerate(sets):
        for part, piece in enumerate(found := list(parts(blocks, BitMap64(), 1500))):
            more = {"changed": piece.changed, "part": part, "parts": len(found)}
            desk.table.flush(f"{number}..{number + 1}", "", **more)
    desk.after(60)
    left = desk.table.records()
    assert {(each.tier, each.after, each.through, each.parts) for each in left} == {
        (1, 0, 4, len(left))
    }
    assert len(left) > 5
    assert [each.part for each in left] == list(range(len(left)))
    assert union(each.changed for each in left) == union(sets)


def test_ten_thousand_volumes_at_one_tick_are_worked_off_in_turns() -> None:
    desk = Desk()
    desk.work()
    for number in range(600):
        for text in ("-1..4", "4..9"):
            desk.table.flush(text, "1", volume=f"v{number}")
    desk.clock.now_s += 60
    turns = 0
    while not asyncio.run(desk.compactor.work(0)):
        turns += 1
    assert turns >= 3
    assert desk.table.done.count("W") == 3
    assert len(desk.table.records()) == 600


# of the settings, of the volume | second, minute, hour kept once held | day kept at all
KEPT = """
                        |                     | 300 7200 86400   | for ever
second=0 minute=0 hour=0|                     | 0 0 0            | for ever
second=9                | second=5 day=70     | 5 7200 86400     | 70
second=9 day=80         | minute=4            | 9 9 86400        | 80
"""


@pytest.mark.parametrize("case", KEPT.strip("\n").splitlines())
def test_how_long_records_are_kept(case: str) -> None:
    settings, mine, held, at_all = (part.strip() for part in case.split("|"))
    words = [
        {k: float(v) for k, v in (word.split("=") for word in text.split())}
        for text in (settings, mine)
    ]
    assert [kept_once_held_s(tier, words[1], words[0]) for tier in range(3)] == [
        float(each) for each in held.split()
    ]
    assert kept_at_all_s(3, words[1], words[0]) == (None if at_all == "for ever" else float(at_all))


# due, overdue | sites as applied position (. for none, g: of another generation) | through, who holds it
LIMITS = """
50 -1  |            | 50
50 -1  | 60 70      | 50
50 -1  | 60 30      | 30 b
50 -1  | 30 30      | 30 a b
50 20  | 60 10      | 20 b
50 40  | 60 45      | 45 b
50 -1  | 60 .       | 9 b
50 -1  | g80 60     | 9 a
8  -1  | .          | 8
"""


@pytest.mark.parametrize("case", LIMITS.strip().splitlines())
def test_nobody_who_is_registered_is_left_behind(case: str) -> None:
    dues, sites, expected = (part.split() for part in case.split("|"))
    said = []
    for name, text in zip("ab", sites, strict=False):
        report = progress(name, None if text == "." else int(text.lstrip("g")))
        said.append(
            replace(report, generation=OTHER_GENERATION) if text.startswith("g") else report
        )
    found = limit(volume(origin_position=9), int(dues[0]), int(dues[1]), said)
    assert found == Limit(
        int(expected[0]), tuple(each for each in said if each.site in expected[1:])
    )


def aged(past_s: float | None = None, **volumes: Volume) -> Desk:
    """A record each ten minutes for three hours, the log kept for one."""
    desk = Desk({"second": 0.0, "minute": 0.0, "hour": 0.0, "day": 3600.0}, past_s)
    desk.volumes.update(volumes)
    for number in range(18):
        desk.table.flush(f"{number * 10 - 1}..{number * 10 + 9}", f"{number}")
        desk.after(600)
    return desk


def test_the_oldest_records_go_when_nobody_needs_them() -> None:
    desk = aged()
    oldest = min(desk.table.records(), key=lambda each: each.after)
    assert 60 <= oldest.after <= 120
    desk.after(7200)
    assert desk.table.records() == []


def test_what_went_is_a_hole_to_whoever_stands_before_it() -> None:
    desk, log = aged(), VolumeLog()
    for each in (left := desk.table.records()):
        log.add(each)
    first = min(each.after for each in left)
    assert log.hole(after=-1, through=179) == Hole(-1, first)
    assert log.hole(after=first, through=179) is None
    nothing_left = VolumeLog()
    nothing_left.add_head(VolumeHead("v", GENERATION, 179))
    assert nothing_left.hole(after=-1, through=200) == Hole(-1, 179)


def test_a_volume_may_be_kept_longer_than_others() -> None:
    desk = aged(v=volume(keep_s={"day": 86_400}))
    assert min(each.after for each in desk.table.records()) == -1


def test_a_site_that_lags_keeps_what_it_needs_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk({"second": 0.0, "minute": 0.0, "hour": 0.0, "day": 3600.0})
    desk.reports.said = [progress("near", 1000), progress("far", 25)]
    with caplog.at_level(logging.WARNING):
        for number in range(18):
            desk.table.flush(f"{number * 10 - 1}..{number * 10 + 9}", f"{number}")
            desk.after(600)
        desk.after(86_400, 100)
    left = desk.table.records()
    assert min(each.after for each in left) <= 25
    assert max(each.through for each in left) == 179
    assert "volume v: site far has applied only position 25" in caplog.text
    assert "near" not in caplog.text
    assert caplog.text.count("far") <= 24 + 3  # once an hour


def test_the_operator_may_let_it_go_past_a_site_and_the_site_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk({"second": 0.0, "minute": 0.0, "hour": 0.0, "day": 3600.0}, past_s=7200)
    desk.reports.said = [progress("far", 25)]
    with caplog.at_level(logging.WARNING):
        desk.table.flush("-1..20", "1")
        desk.table.flush("20..90", "1")
        assert "-1 -1..90" not in desk.after(3 * 3600 - 300)
        assert desk.after(900) == "-1 -1..90"
    assert (
        "site far has applied only position 25, and the records through position 90 are deleted"
        in caplog.text
    )


def test_moments_tell_positions_and_are_thinned_as_they_age() -> None:
    def moment(minute: int, through: int) -> Watermark:
        return Watermark(0, through, minute * 60_000_000)

    noted = [moment(minute, minute * 2) for minute in range(1, 60 * 24 * 12)]
    now_us = noted[-1].at_us
    gone = set(superfluous(noted, now_us))
    left = [each for each in noted if each not in gone]
    assert 6 * 60 + 7 * 24 <= len(left) <= 6 * 60 + 8 * 24 + 12
    assert superfluous(left, now_us) == []
    assert position_at(noted, 60_000_000 * 7.5) == 14
    assert position_at(noted, 0) == -1
    for at_us in range(0, now_us, now_us // 50):
        assert position_at(left, at_us) <= position_at(noted, at_us)
    # The topic was made anew: what was noted of the old one says nothing of the new.
    assert sound([moment(1, 5), moment(2, 900), moment(3, 6), moment(4, 7)], 7) == [
        moment(1, 5),
        moment(3, 6),
        moment(4, 7),
    ]
