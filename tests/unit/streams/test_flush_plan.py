"""Folding a batch into records, heads and a watermark (invariants 3, 4, 5)."""

from __future__ import annotations

import pytest
from notation import GENERATION, OTHER_GENERATION, command, message, record, volume

from mirrorlog.domain.bitmaps import BlockSet, pack
from mirrorlog.domain.commands import CommandKind, ForkOutcomes, TrackingCommand
from mirrorlog.domain.extraction import MAX_FORKS
from mirrorlog.domain.volumes import Volume
from mirrorlog.streams.fold.flush_plan import FlushPlan, FlushRange, plan_flush
from mirrorlog.streams.fold.response import check_command, read_command
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import ForkHead, SessionHead, VolumeHead
from mirrorlog.tracking_log.record_parts import split_record


def flush(
    first: int,
    commands: list[TrackingCommand | bytes],
    heads: dict[str, VolumeHead] | None = None,
    **more: Volume,
) -> FlushPlan:
    responses = []
    for position, given in enumerate(commands, start=first):
        event = message(position, given)
        read = read_command(event)
        name = read.volume if isinstance(read, TrackingCommand) else ""
        responses.append(check_command(event, read, more.get(name)))
    return plan_flush(
        FlushRange(partition=0, first=first, last=first + len(commands) - 1),
        responses,
        (),
        heads or {},
        now_us=99,
        record_max_bytes=900_000,
    )


def test_one_record_a_volume_covers_the_whole_batch() -> None:
    plan = flush(
        5,
        [command("0+4096"), command("4095+2", "w"), command("z8192+8192")],
        v=volume("v"),
        w=volume("w"),
    )
    assert [
        (r.volume, r.after, r.through, list(r.changed), list(r.zeroed)) for r in plan.records
    ] == [
        ("v", -1, 7, [0, 2, 3], [2, 3]),
        ("w", -1, 7, [0, 1], []),
    ]
    assert (plan.watermark.through, len(plan.statuses), plan.flush_range.first) == (7, 3, 5)
    assert plan.records[0].writes == 2
    assert plan.records[0].bytes_written == 12288


def test_only_written_extents_make_blocks_zeroed() -> None:
    zeros = [command("z0+8192"), command("z8192+4096", kind=CommandKind.MARK_DIRTY)]
    (rec,) = flush(0, zeros, v=volume()).records
    assert (list(rec.changed), list(rec.zeroed)) == ([0, 1, 2], [0, 1])


def test_the_chain_goes_on_where_the_last_record_ended() -> None:
    head = VolumeHead("v", GENERATION, through=3)
    (rec,) = flush(8, [command("0+1")], {"v": head}, v=volume()).records
    assert (rec.after, rec.through) == (3, 8)


def test_a_replay_behind_the_table_overlaps_and_claims_no_more_than_it_folds() -> None:
    head = VolumeHead("v", GENERATION, through=30)
    plan = flush(8, [command("0+1")], {"v": head}, v=volume())
    assert (plan.records[0].after, plan.records[0].through) == (7, 8)
    assert plan.heads[0].through == 30


def test_heartbeats_cost_no_record_and_do_not_move_the_chain() -> None:
    head = VolumeHead("v", GENERATION, through=3)
    beat = command("", kind=CommandKind.HEARTBEAT, acknowledged_position=6)
    plan = flush(8, [beat], {"v": head}, v=volume())
    assert plan.records == ()
    assert plan.heads[0].through == 3
    assert plan.heads[0].sessions == (
        SessionHead(
            "s",
            "h",
            opened_position=8,
            last_position=8,
            closed_position=-1,
            acknowledged_position=6,
            last_sequence=0,
            last_at_us=2,
        ),
    )


def test_another_generation_begins_its_chain_at_its_origin() -> None:
    head = VolumeHead("v", OTHER_GENERATION, through=3)
    (rec,) = flush(8, [command("0+1")], {"v": head}, v=volume(origin_position=6)).records
    assert (rec.after, rec.through) == (6, 8)


def test_a_closed_session_stays_closed_until_its_next_command() -> None:
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
    assert sum(head.is_open for head in sessions) == 20
    assert sorted(int(head.session) for head in sessions if not head.is_open) == list(
        range(25, 40, 2)
    )


def test_refused_events_are_answered_kept_and_dont_stop_the_others() -> None:
    plan = flush(0, [b"junk", command("0+1"), command("0+1", "nobody")], v=volume())
    assert [status.code.value for status in plan.statuses] == ["REJECTED", "ACCEPTED", "REJECTED"]
    assert [event.position for event in plan.quarantined] == [0, 2]
    assert [rec.through for rec in plan.records] == [2]


def test_the_same_range_gives_the_same_records() -> None:
    commands = [command("0+4096"), command("8192+1")]
    one, two = (flush(3, commands, v=volume()) for _ in range(2))
    assert [(r.changed, r.after, r.through) for r in one.records] == [
        (r.changed, r.after, r.through) for r in two.records
    ]


def test_a_large_record_is_split_by_block_range_and_covers_only_as_a_whole() -> None:
    whole = record("-1..9", " ".join(str(block) for block in range(0, 200_000, 3)))
    parts = split_record(whole, 20_000)
    assert len(parts) >= 2
    assert all(pack(part.changed).size_bytes <= 20_000 for part in parts)
    log = VolumeLog()
    for part in parts[:-1]:
        log.add(part)
    assert log.hole(after=-1, through=9) is not None
    log.add(parts[-1])
    assert log.hole(after=-1, through=9) is None
    assert log.changed(after=-1, through=9) == whole.changed
    assert split_record(record("-1..9", "1 2 3"), 20_000)[0].changed == BlockSet([1, 2, 3])


# extents and forks of a command, flush by flush | the records | begin and end of the missed logs
FORKED = """
0+1 8192+1 a=HM | v -1..0=0,2 v@a -1..0=2 | a -1..0
0+1 8192+1 a=HO | v -1..0=0,2 | a -1..-1
0+1 a= | v -1..0=0 | a -1..-1
0+1 a=? | v -1..0=0 v@a -1..0=0 | a -1..0
0+1 a=H / 0+1 b=H | v -1..0=0 v 0..1=0 v@a -1..1=0 | a -1..1 b 0..0
0+1 a=M / 0+1 a=H / 4096+1 a=M | v -1..0=0 v@a -1..0=0 v 0..1=0 v 1..2=1 v@a 0..2=1 | a -1..2
0+1 / 0+1 a=H | v -1..0=0 v 0..1=0 | a 0..0
0+1 a=HH | v -1..0=0 |
0+1 a=H,a=H | v -1..0=0 |
0+1 4294967296+1 a=HH | v -1..0=0 v@a -1..0=0 | a -1..0
"""


@pytest.mark.parametrize("case", FORKED.strip().splitlines())
def test_what_each_site_missed_is_a_chain_of_its_own(case: str) -> None:
    given, records, begun = (part.strip() for part in case.split("|"))
    heads: dict[str, VolumeHead] = {}
    written = []
    for position, text in enumerate(given.split("/")):
        named = [word for word in text.split() if "=" in word]
        outcomes = {"M": 0, "H": 1, "O": 2, "?": 9}
        forks = tuple(
            ForkOutcomes(site, bytes(outcomes[letter] for letter in letters))
            for site, letters in (fork.split("=") for word in named for fork in word.split(","))
        )
        extents = " ".join(word for word in text.split() if "=" not in word)
        plan = flush(
            position, [command(extents, sequence=position, forks=forks)], heads, v=volume()
        )
        written += [
            f"{r.volume} {r.after}..{r.through}={','.join(map(str, r.changed))}"
            for r in plan.records
        ]
        heads = {head.volume: head for head in plan.heads}
    assert " ".join(written) == records
    assert [f"{site} {fork.after}..{fork.through}" for site, fork in heads["v"].forks.items()] == (
        [" ".join(pair) for pair in zip(*[iter(begun.split())] * 2, strict=True)]
    )


def test_outcomes_that_contradict_the_extents_are_answered_and_count_for_nothing() -> None:
    head = {"v": VolumeHead("v", GENERATION, through=-1, forks={"a": ForkHead(-1, -1)})}
    for forks in (
        (ForkOutcomes("a", b"\1\1"),),
        (ForkOutcomes("a"), ForkOutcomes("a")),
        (ForkOutcomes("a@b"),),
    ):
        plan = flush(0, [command("0+1", forks=forks)], head, v=volume())
        assert [(r.volume, list(r.changed)) for r in plan.records] == [("v", [0]), ("v@a", [0])]
        assert [(status.code.value, status.reason) for status in plan.statuses] == [
            ("REJECTED", "MALFORMED_COMMAND")
        ]
        assert plan.heads[0].forks.keys() == {"a"}


def test_at_most_max_forks_sites_get_a_log_of_their_own() -> None:
    commands = [
        command("0+1", forks=tuple(ForkOutcomes(f"s{n}{m}") for m in range(20))) for n in range(9)
    ]
    assert len(flush(0, commands, v=volume()).heads[0].forks) == MAX_FORKS


def test_the_open_forks_of_a_session_are_those_of_its_last_command() -> None:
    def of(*outcomes: bytes, again: bool = False) -> tuple[str, ...]:
        commands = [
            command("0+1", sequence=0 if again else number, forks=(ForkOutcomes("a", codes),))
            for number, codes in enumerate(outcomes)
        ]
        return flush(0, commands, v=volume()).heads[0].sessions[0].open_forks

    assert (of(b"\2"), of(b"\2", b"\1"), of(b"\1", b"\2"), of(b"\2", b"\1", again=True)) == (
        ("a",),
        (),
        ("a",),
        ("a",),
    )
