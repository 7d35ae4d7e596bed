"""What a site has missed: the log says what an independent fold of the commands says, however they were cut and read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from notation import command, message, volume

from mirrorlog.domain.bitmaps import BitMap64, fingerprint
from mirrorlog.domain.commands import CommandKind, ForkOutcome, ForkOutcomes, TrackingCommand
from mirrorlog.streams.fold.flush_plan import FlushRange, plan_flush
from mirrorlog.streams.fold.response import check_command, read_command
from mirrorlog.streams.table.rebuild_check import RecordDigests, check_records
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


def missed(each: TrackingCommand, site: str) -> set[int]:
    """Independent of the node: one extent after the other."""
    extents = list(each.extents)
    inside = all(extent.end <= VOLUME.size_bytes for extent in extents)
    told = {fork.site: fork.outcomes for fork in each.forks}
    sound = all(len(outcomes) in (0, len(extents)) for outcomes in told.values())
    has = {ForkOutcome.HAS, ForkOutcome.OPEN} if each.sequence >= 0 else {ForkOutcome.HAS}
    found = set()
    for number, extent in enumerate(extents):
        believed = inside and sound and each.kind is not CommandKind.MARK_DIRTY and site in told
        outcome = (
            (told[site] or bytes([1]) * len(extents))[number] if believed else ForkOutcome.MISSED
        )
        if outcome not in has and extent.end <= VOLUME.size_bytes:
            found.add(extent.offset // BLOCK)
    return found


def flushed(
    given: Sequence[TrackingCommand], cuts: Sequence[int]
) -> tuple[list[LogRecord], VolumeHead | None]:
    """Every cut is the length of a flush; one below 0 goes back by so many commands and reads them again."""
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
        records |= {(each.volume, each.after, each.through): each for each in plan.records}
        heads |= {each.volume: each for each in plan.heads}
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
        named = next((p for p, each in enumerate(given) if site in names(each)), None)
        assert (log.fork is None) is (named is None)
        expected = set().union(*(missed(each, site) for each in given[after + 1 :]), set())
        assert expected <= set(log.missed(after=after, through=end))
        if log.fork is not None and log.fork.after == -1:
            everything = set().union(*(missed(each, site) for each in given), set())
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


def names(each: TrackingCommand) -> set[str]:
    sound = all(len(fork.outcomes) in (0, len(each.extents)) for fork in each.forks)
    return {fork.site for fork in each.forks} if sound else set()


@given(st.lists(commands(), min_size=1, max_size=14), CUTS, st.data())
def test_the_missed_logs_are_proved_too(
    given: list[TrackingCommand], cuts: list[int], data: st.DataObject
) -> None:
    records, _ = flushed(given, cuts)
    messages = [message(position, each) for position, each in enumerate(given)]
    assert (
        list(
            check_records(messages, {"v": VOLUME}, RecordDigests(records), "table", lambda: records)
        )
        == []
    )
    mine = [number for number, each in enumerate(records) if each.volume != "v"]
    if mine:
        number = data.draw(st.sampled_from(mine))
        wrong = replace(
            records[number],
            changed=records[number].changed ^ BitMap64([data.draw(st.integers(0, 9))]),
        )
        assert fingerprint(wrong.changed) != fingerprint(records[number].changed)
        tampered = [*records[:number], wrong, *records[number + 1 :]]
        (difference,) = check_records(
            messages, {"v": VOLUME}, RecordDigests(tampered), "table", lambda: tampered
        )
        assert (difference.volume, difference.through) == (wrong.volume, wrong.through)
