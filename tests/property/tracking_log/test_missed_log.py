"""The missed log equals an independent fold of the commands, for any flushes and replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from notation import command, flipped, message, volume

from mirrorlog.domain.bitmaps import fingerprint
from mirrorlog.domain.commands import CommandKind, ForkOutcome, ForkOutcomes, TrackingCommand
from mirrorlog.ports.streams import Message
from mirrorlog.streams.fold.flush_plan import FlushRange, plan_flush
from mirrorlog.streams.fold.response import check_command, read_command
from mirrorlog.streams.table.rebuild_check import Difference, check_records
from mirrorlog.streams.table.record_digests import RecordDigests
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import VolumeHead
from mirrorlog.tracking_log.keys import missed_log, read_record_key, record_key
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.site_log import SiteLog

SITES, BLOCK, VOLUME = ("a", "b"), 4096, volume("v")
KINDS = st.sampled_from(
    [CommandKind.WRITES] * 6 + [CommandKind.MARK_DIRTY, CommandKind.SESSION_OPEN]
)


@st.composite
def commands(draw: st.DrawFn) -> TrackingCommand:
    blocks = draw(st.lists(st.integers(0, 9), max_size=4))
    outside = draw(st.sampled_from([False] * 9 + [True]))
    text = " ".join(f"{block * BLOCK + 1}+5" for block in blocks) + (
        f" {VOLUME.size_bytes}+1" if outside else ""
    )
    forks = []
    for site in draw(st.sampled_from([SITES, SITES, ("a",), ()])):
        count = draw(st.sampled_from([len(text.split())] * 4 + [0, 0, 0, 1]))
        outcomes = st.lists(st.sampled_from([1, 1, 1, 0, 2, 3]), min_size=count, max_size=count)
        forks.append(ForkOutcomes(site, bytes(draw(outcomes))))
    return command(
        text, sequence=draw(st.sampled_from([5, 5, 5, -1])), kind=draw(KINDS), forks=tuple(forks)
    )


def missed(event: TrackingCommand, site: str) -> set[int]:
    """Return the blocks that the site missed, extent by extent, without the node's code."""
    extents = list(event.extents)
    inside = all(extent.end <= VOLUME.size_bytes for extent in extents)
    by_site = {fork.site: fork.outcomes for fork in event.forks}
    sound = all(len(outcomes) in (0, len(extents)) for outcomes in by_site.values())
    has = {ForkOutcome.HAS, ForkOutcome.OPEN} if event.sequence >= 0 else {ForkOutcome.HAS}
    blocks = set()
    for number, extent in enumerate(extents):
        believed = inside and sound and event.kind is not CommandKind.MARK_DIRTY and site in by_site
        outcome = (
            (by_site[site] or bytes([1]) * len(extents))[number] if believed else ForkOutcome.MISSED
        )
        if outcome not in has and extent.end <= VOLUME.size_bytes:
            blocks.add(extent.offset // BLOCK)
    return blocks


def flushed(
    given: Sequence[TrackingCommand], cuts: Sequence[int]
) -> tuple[list[LogRecord], VolumeHead | None]:
    """Fold the commands in flushes, with replays.

    cuts: each is the length of a flush; a negative one goes back by that number of commands.
    """
    records: dict[tuple[str, int, int], LogRecord] = {}
    heads: dict[str, VolumeHead] = {}
    first = 0
    for cut in [*cuts, len(given)]:
        if cut < 0:
            first = max(0, first + cut)
            continue
        last = min(first + cut, len(given)) - 1
        if last < first:
            continue
        answers = []
        for position in range(first, last + 1):
            event = message(position, given[position])
            answers.append(check_command(event, read_command(event), VOLUME))
        plan = plan_flush(
            FlushRange(partition=0, first=first, last=last),
            answers,
            (),
            heads,
            now_us=9,
            record_max_bytes=900_000,
        )
        records |= {
            (record.volume, record.after, record.through): record for record in plan.records
        }
        heads |= {head.volume: head for head in plan.heads}
        first = last + 1
    return list(records.values()), heads.get("v")


CUTS = st.lists(st.sampled_from([1, 1, 1, 2, 3, -1, -3]), max_size=14)


@given(st.lists(commands(), min_size=1, max_size=14), CUTS, st.data())
def test_the_missed_log_is_a_fold_of_the_commands(
    given: list[TrackingCommand], cuts: list[int], data: st.DataObject
) -> None:
    records, head = flushed(given, cuts)
    assert head is not None
    end, after = len(given) - 1, data.draw(st.integers(-1, len(given) - 1))
    for site in SITES:
        log = SiteLog(VolumeLog(head=head), VolumeLog(), site)
        for name, part in (("v", log.volume), (missed_log("v", site), log.missed_log)):
            for record in records:
                if record.volume == name:
                    part.add(record)
        assert log.hole(after=after, through=end) is log.hole(after=-1, through=end) is None
        named = next((p for p, event in enumerate(given) if site in names(event)), None)
        assert (log.fork is None) is (named is None)
        expected = set().union(*(missed(event, site) for event in given[after + 1 :]), set())
        assert expected <= set(log.missed(after=after, through=end))
        if log.fork is not None and log.fork.after == -1:
            everything = set().union(*(missed(event, site) for event in given), set())
            assert set(log.missed(after=-1, through=end)) == everything
            mine = [r for r in records if r.volume == missed_log("v", site)]
            if mine:
                lost = data.draw(st.sampled_from(mine))
                if not any(
                    r is not lost and r.after < lost.through and r.through > lost.after
                    for r in mine
                ):
                    log.missed_log.drop(read_record_key(record_key(lost)))
                    assert log.missed_hole(after=-1, through=end) is not None


def names(event: TrackingCommand) -> set[str]:
    sound = all(len(fork.outcomes) in (0, len(event.extents)) for fork in event.forks)
    return {fork.site for fork in event.forks} if sound else set()


def differences(messages: Sequence[Message], records: Sequence[LogRecord]) -> list[Difference]:
    digests = RecordDigests(records)
    return list(
        check_records(messages, {"v": VOLUME}, digests, where="table", reread=lambda: records)
    )


@given(st.lists(commands(), min_size=1, max_size=14), CUTS, st.data())
def test_the_rebuild_check_proves_missed_logs_too(
    given: list[TrackingCommand], cuts: list[int], data: st.DataObject
) -> None:
    records, _ = flushed(given, cuts)
    messages = [message(position, event) for position, event in enumerate(given)]
    assert differences(messages, records) == []
    mine = [number for number, record in enumerate(records) if record.volume != "v"]
    if mine:
        number = data.draw(st.sampled_from(mine))
        wrong = replace(
            records[number],
            changed=flipped(records[number].changed, data.draw(st.integers(0, 9))),
        )
        assert fingerprint(wrong.changed) != fingerprint(records[number].changed)
        tampered = [*records[:number], wrong, *records[number + 1 :]]
        (difference,) = differences(messages, tampered)
        assert (difference.volume, difference.through) == (wrong.volume, wrong.through)
