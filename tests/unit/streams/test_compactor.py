"""LogCompactor: in which order records replace others, and which are deleted (invariants 3, 5)."""

from __future__ import annotations

import asyncio
import logging
from random import Random

import pytest
from compacting import NOTHING_KEPT, CompactorModel, FakeReports, aged
from notation import GENERATION, OTHER_GENERATION, backup_report, site_progress, volume

from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BlockSet, union
from mirrorlog.errors import KafkaFailed
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.streams.compaction.retention_job import ReportsOnDemand
from mirrorlog.streams.compaction.rollups import RangeBlocks, cut_to_size
from mirrorlog.tracking_log.coverage import Hole, VolumeLog
from mirrorlog.tracking_log.heads import VolumeHead
from mirrorlog.tracking_log.keys import delays_prefix, read_record_key
from mirrorlog.tracking_log.publication_delays import PublicationDelays


def test_the_roll_up_first_then_the_watermark_then_the_tombstones() -> None:
    model = CompactorModel()
    model.work()
    for text in ("-1..4", "4..6", "6..9"):
        model.table.flush(text, "1 2")
    assert model.after(60) == "+1 -1..9 W -0 -1..4 -0 4..6 -0 6..9"
    assert model.after(86_400) == ""  # one of its tier alone waits for its next
    model.table.flush("9..12", "3")
    assert model.after(86_400) == ""
    model.table.flush("12..15", "3")
    assert model.after(3600, 60) == "+1 9..15 W -0 9..12 -0 12..15 +2 -1..15 W -1 -1..9 -1 9..15"
    (left,) = model.table.records()
    assert (left.tier, list(left.changed), left.writes) == (2, [1, 2, 3], 5)


def test_a_volume_with_nothing_new_costs_nothing() -> None:
    model = CompactorModel()
    for number in range(5):
        model.table.flush(f"{number}..{number + 1}", "1")
    model.after(3 * 86_400)
    asked: list[bytes] = []
    keys = model.table.keys

    def noted(partition: int, start: bytes, end: bytes, limit: int | None = None) -> list[bytes]:
        asked.append(start)
        return keys(partition, start, end, limit)

    model.table.keys = noted  # type: ignore[method-assign]
    assert (model.after(86_400), asked) == ("", [])


def test_the_tables_rows_go_to_a_file_every_five_minutes_also_when_nothing_comes() -> None:
    model = CompactorModel()
    model.work()
    assert (model.after(299), model.table.emptied) == ("", 0)
    assert (model.after(1), model.table.emptied) == ("", 1)
    assert model.work() <= 300
    assert (model.after(300), model.table.emptied) == ("", 2)


def test_finer_records_are_kept_for_as_long_as_their_tier_says() -> None:
    model = CompactorModel({"second": 600.0, "minute": 7200.0})
    model.volumes["w"] = volume("w", keep_s={"second": 0})
    model.work()
    for name in "vw":
        for text in ("-1..4", "4..9"):
            model.table.flush(text, "1", volume=name)
    assert model.after(60) == "+1 -1..9 +1 -1..9 W -0 -1..4 -0 4..9"
    model.table.through = 20
    assert model.after(540, 9) == ""
    assert model.after(240) == "W -0 -1..4 -0 4..9"


def test_sources_that_a_crash_left_are_deleted_once_they_are_proved_to_be_held() -> None:
    model = CompactorModel()
    for text in ("-1..4", "4..9", "9..12"):
        model.table.flush(text, "1 2")
    model.table.flush("-1..9", "1 2", tier=1)
    model.restart()
    assert model.after(60) == "W -0 -1..4 -0 4..9"
    assert model.after(0) == ""


@pytest.mark.parametrize("steps", range(1, 12))
def test_sources_of_two_roll_ups_that_are_due_together_are_deleted_once(
    steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The tombstones leave after any number of steps: also between a look at a record's key and
    the look at the record."""
    model = CompactorModel({"second": 600.0, "minute": 600.0})
    for text in ("-1..4", "4..9", "9..14", "14..19"):
        model.table.flush(text, "1 2")
    for text, tier in (("-1..9", 1), ("9..19", 1), ("-1..19", 2)):
        model.table.flush(text, "1 2", tier=tier)
    model.restart()
    model.work()
    model.clock.now_s += 700
    model.clock.look_s = 0.05 / steps
    model.work()
    assert [(kept.tier, kept.after, kept.through) for kept in model.table.records()] == [
        (2, -1, 19)
    ]
    assert caplog.messages == []


def test_sources_that_the_roll_up_does_not_hold_stay_and_an_error_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = CompactorModel()
    model.table.flush("-1..4", "1 2")
    model.table.flush("4..9", "3")
    model.table.flush("-1..9", "1 2", tier=1)
    model.restart()
    with caplog.at_level(logging.ERROR):
        assert model.after(7200) == "W"
    assert (
        "the record (-1, 9] of tier minute doesn't hold every block of the records inside it"
        in caplog.text
    )


def test_generations_and_holes_are_never_bridged() -> None:
    model = CompactorModel()
    model.work()
    for text, more in (
        ("-1..4", {}),
        ("4..6", {}),
        ("6..8", {"generation": OTHER_GENERATION}),
        ("10..12", {}),
    ):
        model.table.flush(text, "1", **more)
    assert model.after(60) == "+1 -1..6 W -0 -1..4 -0 4..6"
    assert model.after(86_400) == ""


def test_imports_are_united_within_an_hour_of_their_own_times() -> None:
    model = CompactorModel()
    model.work()
    hour = 3_600_000_000
    for text, first_us, last_us in (
        ("-1..2", hour, hour),
        ("2..4", hour + 1, 2 * hour - 1),
        ("4..6", 2 * hour, 2 * hour + 5),
        ("6..8", 2 * hour + 7, 2 * hour + 9),
        ("8..10", 2 * hour + 9, 5 * hour),
        ("10..12", 5 * hour, 6 * hour),
    ):
        times = {"first_at_us": first_us, "last_at_us": last_us}
        model.table.flush(text, "1", hosts=("import:msr:1",), **times)
    for text in ("12..14", "14..16"):
        model.table.flush(text, "1", first_at_us=hour, last_at_us=9 * hour)
    assert model.after(60) == (
        "+1 -1..4 +1 4..8 +1 12..16 W -0 -1..2 -0 2..4 -0 4..6 -0 6..8 -0 12..14 -0 14..16"
    )
    assert model.after(2 * 86_400) == ""


def test_records_above_the_watermark_wait() -> None:
    model = CompactorModel()
    model.work()
    for text in ("-1..4", "4..6", "6..9"):
        model.table.flush(text, "1")
    model.table.through = 6
    assert model.after(60) == "+1 -1..6 W -0 -1..4 -0 4..6"


def test_a_damaged_record_or_one_with_a_part_missing_stays_and_the_others_go_on() -> None:
    model = CompactorModel()
    model.work()
    for text in ("-1..4", "4..6", "6..7", "7..8/0of2", "8..9", "9..11"):
        model.table.flush(text, "1 2 3")
    (damaged,) = (key for key in model.table.rows if read_record_key(key).through == 4)
    model.table.rows[damaged] = model.table.rows[damaged][:-3]
    assert model.after(60) == "+1 4..7 +1 8..11 W -0 4..6 -0 6..7 -0 8..9 -0 9..11"


@pytest.mark.parametrize("held", [64, 2])
def test_a_large_record_becomes_parts(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirrorlog.streams.compaction.roll_up_job._PIECES_HELD", held)
    model = CompactorModel(record_max_bytes=1000)
    model.work()
    random = Random(2)
    sets = [BlockSet(random.sample(range(1 << 20), 2000)) for _ in range(4)]
    for number, blocks in enumerate(sets):
        cuts = cut_to_size([RangeBlocks(blocks, BlockSet())], 1500)
        pieces = [piece for piece in cuts if piece is not None]
        for part, piece in enumerate(pieces):
            more = {"changed": piece.changed, "part": part, "parts": len(pieces)}
            model.table.flush(f"{number}..{number + 1}", "", **more)
    model.after(60)
    left = model.table.records()
    assert {(part.tier, part.after, part.through, part.parts) for part in left} == {
        (1, 0, 4, len(left))
    }
    assert len(left) > 5
    assert [part.part for part in left] == list(range(len(left)))
    assert union(part.changed for part in left) == union(sets)


def test_many_volumes_at_one_tick_are_worked_off_in_several_calls() -> None:
    model = CompactorModel()
    model.work()
    for number in range(600):
        for text in ("-1..4", "4..9"):
            model.table.flush(text, "1", volume=f"v{number}")
    model.clock.now_s += 60
    turns = 0
    while not asyncio.run(model.compactor.work(0)):
        turns += 1
    assert turns >= 3
    assert model.table.written.count("W") == 3
    assert len(model.table.records()) == 600


def test_the_oldest_records_are_deleted_when_no_site_needs_them() -> None:
    model = aged()
    oldest = min(model.table.records(), key=lambda record: record.after)
    assert 60 <= oldest.after <= 120
    model.after(7200)
    assert model.table.records() == []


YEAR_S = 365 * 86_400.0


@pytest.mark.parametrize("broker_ahead_s", [7200.0, -7200.0, 50 * YEAR_S])
def test_records_grow_old_by_the_brokers_clock_whatever_the_nodes_shows(
    broker_ahead_s: float,
) -> None:
    model, right = aged(broker_ahead_s=broker_ahead_s), aged()
    oldest = min(record.after for record in model.table.records())
    assert oldest == min(record.after for record in right.table.records())
    # Another worker, whose clock is years ahead or in 1970, takes the partition.
    for now_s in (model.clock.now_s + 10 * YEAR_S, 0.0):
        model.broker_ahead_s = model.clock.now_s + broker_ahead_s - now_s
        model.clock.now_s = now_s
        model.restart()
        model.table.through += 1  # a heartbeat
        model.after(60)
        assert min(record.after for record in model.table.records()) == oldest
    model.after(7200)
    assert model.table.records() == []


def test_nothing_is_deleted_for_its_age_before_the_brokers_time_is_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = aged()
    oldest = min(record.after for record in model.table.records())
    model.restart()
    model.after(YEAR_S)
    assert min(record.after for record in model.table.records()) == oldest
    with caplog.at_level(logging.WARNING):
        of_hosts = aged(broker_ahead_s=None)
        of_hosts.after(YEAR_S)
    assert min(record.after for record in of_hosts.table.records()) == -1
    assert "run `mirrorlog topics create`" in caplog.text


def test_deleted_records_are_a_hole_to_a_reader_before_them() -> None:
    model, log = aged(), VolumeLog()
    for record in (left := model.table.records()):
        log.add(record)
    first = min(record.after for record in left)
    assert log.hole(after=-1, through=179) == Hole(-1, first)
    assert log.hole(after=first, through=179) is None
    nothing_left = VolumeLog()
    nothing_left.add_head(VolumeHead("v", GENERATION, through=179))
    assert nothing_left.hole(after=-1, through=200) == Hole(-1, 179)


def test_a_volume_may_be_kept_longer_than_others() -> None:
    model = aged(v=volume(keep_s={"day": 86_400}))
    assert min(record.after for record in model.table.records()) == -1


def test_a_site_that_lags_keeps_the_records_it_needs_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = CompactorModel(NOTHING_KEPT | {"day": 3600.0})
    model.reports.reports = [
        site_progress(site="near", applied_position=1000),
        site_progress(site="far", applied_position=25),
    ]
    with caplog.at_level(logging.WARNING):
        for number in range(18):
            model.table.flush(f"{number * 10 - 1}..{number * 10 + 9}", f"{number}")
            model.after(600)
        model.after(86_400, 100)
    left = model.table.records()
    assert min(record.after for record in left) <= 25
    assert max(record.through for record in left) == 179
    assert "volume v: site far has applied only position 25" in caplog.text
    assert "near" not in caplog.text
    assert caplog.text.count("far") <= 7  # after 1, 2, 4, 8 and 16 hours


def test_reports_that_cannot_be_read_are_logged_once_and_when_they_can_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_away = True

    def open_reports() -> SiteReports:
        if is_away:
            raise KafkaFailed("no broker answers")
        return FakeReports()  # type: ignore[return-value]

    reports = ReportsOnDemand(open_reports, ManualClock(look_s=1.0))
    assert [asyncio.run(reports.refreshed()) for _ in range(5)] == [None] * 5
    is_away = False
    assert asyncio.run(reports.refreshed()) is not None
    assert asyncio.run(reports.refreshed()) is not None
    assert caplog.messages == [
        "nothing is deleted for its age, reading where the sites and backups are fails: no broker "
        "answers.",
        "reading where the sites and backups are works again after 5 failures in 5 s",
    ]


def test_records_may_be_deleted_past_a_site_and_the_site_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = CompactorModel(NOTHING_KEPT | {"day": 3600.0}, past_s=7200)
    model.reports.reports = [site_progress(site="far", applied_position=25)]
    with caplog.at_level(logging.WARNING):
        model.table.flush("-1..20", "1")
        model.table.flush("20..90", "1")
        assert "-1 -1..90" not in model.after(3 * 3600 - 300)
        assert model.after(900) == "-1 -1..90"
    assert (
        "site far has applied only position 25, and the records through position 90 are deleted"
        in caplog.text
    )


def test_publication_delays_are_kept_and_become_one_when_they_are_old() -> None:
    model = CompactorModel()

    def held() -> list[PublicationDelays]:
        prefix = delays_prefix(0)
        rows = sorted(row for row in model.table.rows.items() if row[0].startswith(prefix))
        return [decode(value, PublicationDelays) for _, value in rows]

    def note(first: int, end: int, longest_us: int) -> None:
        at_us = model.clock.now_us()
        model.compactor.note_delays(
            PublicationDelays(
                partition=0,
                history_id="h",
                after=first - 1,
                through=end - 1,
                first_appended_us=at_us,
                last_appended_us=at_us,
                longest_us=longest_us,
                shortest_us=1,
            )
        )

    for minute in range(3):
        model.table.flush(f"{minute * 10 - 1}..{minute * 10 + 9}", f"{minute}")
        note(minute * 10, minute * 10 + 5, 5)
        note(minute * 10 + 5, minute * 10 + 10, 7 + minute)
        model.after(60)
        if minute == 1:
            model.restart()  # another worker finds what is held
    assert [(part.after, part.through, part.longest_us) for part in held()] == [
        (-1, 9, 7),
        (9, 19, 8),
        (19, 29, 9),
    ]
    model.table.flush("29..39", "3")
    model.after(7 * 3600)
    assert [(part.after, part.through, part.longest_us) for part in held()] == [(-1, 29, 9)]


def test_a_backup_keeps_what_its_next_point_needs_and_is_named_as_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = CompactorModel(NOTHING_KEPT | {"day": 3600.0}, past_s=7200)
    model.reports.reports = [backup_report(position=25)]
    with caplog.at_level(logging.WARNING):
        model.table.flush("-1..20", "1")
        model.table.flush("20..90", "1")
        assert "-1 -1..90" not in model.after(3 * 3600 - 300, 20)
        assert model.after(900) == "-1 -1..90"
    held, *_, left_behind = caplog.messages
    assert "the next backup to /backups needs the log above position 25, so records" in held
    assert "the records through position 90 are deleted now" in left_behind
    assert "site" not in held.replace("node_keep_past_sites_after_s", "")
