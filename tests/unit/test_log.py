"""Folding a batch into records, heads and a watermark (invariants 3, 4, 5)."""

from __future__ import annotations

from notation import GENERATION, OTHER_GENERATION, command, message, record, volume

from mirrorlog.bitmaps import BitMap64, pack
from mirrorlog.commands import CommandKind, TrackingCommand
from mirrorlog.streams.log import FlushPlan, Span, plan_flush, split
from mirrorlog.streams.response import check, read_command
from mirrorlog.tracking_log import SessionHead, VolumeHead, VolumeLog
from mirrorlog.volumes import Volume


def flush(
    first: int, commands: list[TrackingCommand | bytes], heads: dict[str, VolumeHead] | None = None, **more: Volume
) -> FlushPlan:
    answers = []
    for position, each in enumerate(commands, start=first):
        event = message(position, each)
        found = read_command(event)
        name = found.volume if isinstance(found, TrackingCommand) else ""
        answers.append(check(event, found, more.get(name)))
    return plan_flush(Span(0, first, first + len(commands) - 1), answers, (), heads or {}, 99, 900_000)


def test_one_record_a_volume_covers_the_whole_batch() -> None:
    plan = flush(5, [command("0+4096"), command("4095+2", "w"), command("z8192+8192")], v=volume("v"), w=volume("w"))
    assert [(r.volume, r.after, r.through, list(r.changed), list(r.zeroed)) for r in plan.records] == [
        ("v", -1, 7, [0, 2, 3], [2, 3]),
        ("w", -1, 7, [0, 1], []),
    ]
    assert (plan.watermark.through, len(plan.statuses), plan.first) == (7, 3, 5)
    assert plan.records[0].writes == 2
    assert plan.records[0].bytes_written == 12288


def test_only_what_was_written_says_what_is_zero() -> None:
    zeros = [command("z0+8192"), command("z8192+4096", kind=CommandKind.MARK_DIRTY)]
    (rec,) = flush(0, zeros, v=volume()).records
    assert (list(rec.changed), list(rec.zeroed)) == ([0, 1, 2], [0, 1])


def test_the_chain_goes_on_where_the_last_record_ended() -> None:
    head = VolumeHead("v", GENERATION, 3)
    (rec,) = flush(8, [command("0+1")], {"v": head}, v=volume()).records
    assert (rec.after, rec.through) == (3, 8)


def test_a_replay_behind_the_table_overlaps_and_claims_no_more_than_it_folds() -> None:
    head = VolumeHead("v", GENERATION, 30)
    plan = flush(8, [command("0+1")], {"v": head}, v=volume())
    assert (plan.records[0].after, plan.records[0].through) == (7, 8)
    assert plan.heads[0].through == 30


def test_heartbeats_cost_no_record_and_dont_move_the_chain() -> None:
    head = VolumeHead("v", GENERATION, 3)
    beat = command("", kind=CommandKind.HEARTBEAT, acknowledged_position=6)
    plan = flush(8, [beat], {"v": head}, v=volume())
    assert plan.records == ()
    assert plan.heads[0].through == 3
    assert plan.heads[0].sessions == (SessionHead("s", "h", 8, 8, -1, 6, 0, 2),)


def test_another_generation_begins_its_chain_at_its_origin() -> None:
    head = VolumeHead("v", OTHER_GENERATION, 3)
    (rec,) = flush(8, [command("0+1")], {"v": head}, v=volume(origin_position=6)).records
    assert (rec.after, rec.through) == (6, 8)


def test_a_closed_session_stays_closed_until_it_speaks_again() -> None:
    close = command("", kind=CommandKind.SESSION_CLOSE)
    plan = flush(0, [command("0+1"), close], v=volume())
    assert not plan.heads[0].sessions[0].is_open
    plan = flush(2, [command("0+1")], {"v": plan.heads[0]}, v=volume())
    assert plan.heads[0].sessions[0].is_open


def test_a_head_keeps_every_open_session_and_a_few_closed_ones() -> None:
    commands = []
    for number in range(40):
        commands.append(command("0+1", session=str(number)))
        if number % 2:
            commands.append(command("", session=str(number), kind=CommandKind.SESSION_CLOSE))
    sessions = flush(0, commands, v=volume()).heads[0].sessions
    assert sum(each.is_open for each in sessions) == 20
    assert sorted(int(each.session) for each in sessions if not each.is_open) == list(range(25, 40, 2))


def test_refused_events_are_answered_kept_and_dont_stop_the_others() -> None:
    plan = flush(0, [b"junk", command("0+1"), command("0+1", "nobody")], v=volume())
    assert [status.code.value for status in plan.statuses] == ["REJECTED", "ACCEPTED", "REJECTED"]
    assert [each.position for each in plan.quarantined] == [0, 2]
    assert [rec.through for rec in plan.records] == [2]


def test_the_same_range_gives_the_same_records() -> None:
    commands = [command("0+4096"), command("8192+1")]
    one, two = (flush(3, commands, v=volume()) for _ in range(2))
    assert [(r.changed, r.after, r.through) for r in one.records] == [
        (r.changed, r.after, r.through) for r in two.records
    ]


def test_a_large_record_is_split_by_block_range_and_covers_only_as_a_whole() -> None:
    whole = record("-1..9", " ".join(str(block) for block in range(0, 200_000, 3)))
    parts = split(whole, 20_000)
    assert len(parts) >= 2
    assert all(len(pack(part.changed)) <= 20_000 for part in parts)
    log = VolumeLog()
    for part in parts[:-1]:
        log.add(part)
    assert log.hole(-1, 9) is not None
    log.add(parts[-1])
    assert log.hole(-1, 9) is None
    assert log.changed(-1, 9) == whole.changed
    assert split(record("-1..9", "1 2 3"), 20_000)[0].changed == BitMap64([1, 2, 3])
