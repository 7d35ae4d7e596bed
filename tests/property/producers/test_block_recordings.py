"""Any part of any recording of the block tracer names what its events name, in both forms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from block_traces import blkparse_text, blktrace_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from import_cases import MIB, batches

from mirrorlog.errors import BadInput, BadUse
from mirrorlog.producers.importers import (
    AddressRange,
    ImportSource,
    blkparse_source,
    blktrace_source,
)
from mirrorlog.producers.importers import request_stages as stages_module
from mirrorlog.producers.importers.request_stages import RequestStages

SECTOR = 512
SIZE = MIB
BEGIN = 2048
"""The sector where the partition begins on its disk."""
GROUPS = {"queue": "AQGI", "issue": "D", "requeue": "R", "complete": "C"}
"""The actions that `blktrace -a` lets through."""
in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)

ranges = st.integers(0, SIZE // SECTOR - 1).flatmap(
    lambda first: st.tuples(st.just(first), st.integers(1, min(64, SIZE // SECTOR - first)))
)
ways = st.sampled_from(["QGDC", "QC", "QIDRDC", "QD", "Q", "QGIDC"])


@st.composite
def recordings(draw: st.DrawFn, partition: bool) -> list[tuple[str, str, int, int]]:
    """Draw events (action, rwbs, first sector, sectors) of writes whose ways interleave."""
    requests = draw(st.lists(st.tuples(ranges, ways), min_size=1, max_size=8))
    left = [
        [(action, "W", first, count) for action in ("A" if partition else "") + way]
        for (first, count), way in requests
    ]
    events = []
    while left:
        index = draw(st.integers(0, len(left) - 1))
        events.append(left[index].pop(0))
        left = [way for way in left if way]
    return events


def notation_of(
    events: list[tuple[str, str, int, int]], *, partition: bool, first_number: int
) -> str:
    """Return the events in the notation of block_traces, numbered from `first_number` on."""
    device, begin = ("8-17", BEGIN) if partition else ("8-16", 0)
    rows = []
    for number, (action, rwbs, first, count) in enumerate(events, start=first_number):
        origin = f" < 8-17 {first} > 8-16" if action == "A" else ""
        rows.append(f"{device} {action} {rwbs} {first + begin}+{count}{origin} seq={number}")
    return "; ".join(rows)


def sources(folder: Path, notation: str) -> Iterator[ImportSource]:
    volume_range = AddressRange(offset=0, length=SIZE)
    binary, text = folder / "binary", folder / "text"
    binary.write_bytes(blktrace_bytes(notation))
    text.write_bytes(blkparse_text(notation))
    yield blktrace_source([binary], volume_range)
    yield blkparse_source(text, volume_range)


def extents_of(source: ImportSource) -> list[tuple[int, int]]:
    """Return what is imported, as (first sector, sectors)."""
    return [
        (extent.offset // SECTOR, extent.length // SECTOR)
        for batch in batches(source, SIZE)
        for extent in batch.extents
    ]


def sectors_of(extents: list[tuple[int, int]]) -> set[int]:
    return {sector for first, count in extents for sector in range(first, first + count)}


@pytest.mark.parametrize("partition", [False, True])
@in_one_folder
@given(
    data=st.data(),
    groups=st.sets(st.sampled_from(sorted(GROUPS)), min_size=1),
    limit=st.sampled_from([1 << 20, 40]),
)
def test_every_range_of_what_was_recorded_is_imported(
    tmp_path: Path, partition: bool, data: st.DataObject, groups: set[str], limit: int
) -> None:
    """The recording begins anywhere, and `blktrace -a` filters it."""
    let_through = "".join(GROUPS[group] for group in groups)
    everything = data.draw(recordings(partition))
    filtered = [event for event in everything if event[0] in let_through]
    begin = data.draw(st.integers(0, len(filtered)))
    recorded = filtered[begin:]
    notation = notation_of(recorded, partition=partition, first_number=begin + 1)
    expected = sectors_of([(first, count) for _, _, first, count in recorded])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages_module, "_MAX_SECTORS", limit)
        imported = []
        for source in sources(tmp_path, notation):
            try:
                imported.append(extents_of(source))
            except BadInput:
                shows_begin = not partition or any(event[0] == "A" for event in recorded)
                assert not shows_begin or not recorded or {e[0] for e in recorded} == {"A"}
                imported.append([])
                continue
            assert sectors_of(imported[-1]) == expected
            assert source.warnings == []
    assert imported[0] == imported[1]
    queued = [(first, count) for action, _, first, count in recorded if action == "Q"]
    overlap = sum(count for _, count in queued) > len(sectors_of(queued))
    if recorded == everything and limit > 40 and not overlap:
        assert len(imported[0]) == len(queued), "each request counts once"


WHOLE = (
    "8-17 A W 2048+8 < 8-17 0; 8-17 Q W 2048+8; 8-17 D W 2048+8; 8-17 C W 2048+8; "
    "8-17 A FWS 0+0 < 253-0 0; 8-17 Q FWS; 8-17 D FN; 8-17 C FN; 8-17 X W 2064+16 / 2072; "
    "8-17 C W 2072+8; 8-17 D R pc 512 12; 8-17 Q W 2056+8 cpu=1"
)


@pytest.mark.parametrize("kind", ["blktrace", "blkparse"])
def test_a_recording_that_is_cut_at_any_byte_gives_whole_events_or_is_refused(
    tmp_path: Path, kind: str
) -> None:
    content = blktrace_bytes(WHOLE) if kind == "blktrace" else blkparse_text(WHOLE)
    path, volume_range = tmp_path / "cut", AddressRange(offset=0, length=SIZE)

    def source() -> ImportSource:
        if kind == "blktrace":
            return blktrace_source([path], volume_range)
        return blkparse_source(path, volume_range)

    path.write_bytes(content)
    whole = extents_of(source())
    assert whole == [(0, 8), (16, 8), (24, 8), (8, 8)]
    accepted = set[int]()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        try:
            part = extents_of(source())
        except BadUse:
            continue
        assert part == whole[: len(part)], "a cut never gives another address"
        accepted.add(length)
    ends = {len(content[:length]) for length in accepted}
    assert len(ends) <= len(WHOLE.split(";")), "only cuts behind an event are accepted"


@in_one_folder
@given(
    st.lists(
        st.tuples(st.sampled_from(["A", "Q", "M", "D", "R", "C"]), st.integers(0, 30)), max_size=60
    )
)
def test_what_isnt_first_was_named_before(events: list[tuple[str, int]]) -> None:
    """In stages of at most 12 sectors, which forget often."""
    named = set[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages_module, "_MAX_SECTORS", 12)
        stages = RequestStages()
        for action, first in events:
            sectors = set(range(first, first + 4))
            assert stages.is_first(action, first, first + 4) or sectors <= named
            named |= sectors
