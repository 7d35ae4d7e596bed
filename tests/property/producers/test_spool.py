"""A spool returns its records in order, and notices when records are missing that must be there."""

from __future__ import annotations

from random import Random
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlog.producers.durable.activity_format import (
    ActivityEntry,
    ActivityOp,
    ActivityState,
    PreviousLog,
)
from mirrorlog.producers.durable.spool import Spool, SpoolRecord, read_spool, remove_spool
from mirrorlog.producers.durable.spool_recovery import PreviousSpool
from mirrorlog.simulation.memory_folder import MemoryFolder

SESSION, OTHER = str(UUID(int=1)), str(UUID(int=2))
RECORDS = st.builds(
    SpoolRecord, st.integers(0, 3), st.sampled_from(("a", "b", "é" * 90)), st.binary(max_size=300)
)


def read_back(folder: MemoryFolder, first: int, last: int) -> PreviousSpool:
    """Return the spool as the next session sees it.

    The activity log counts on the records from `first` through `last`, of the volumes a and b.
    """
    state = ActivityState()
    state.apply(ActivityEntry(ActivityOp.SPOOL, records=(first, last)))
    for name in ("a", "b"):
        state.apply(ActivityEntry(ActivityOp.SETTLED, name))
        state.apply(ActivityEntry(ActivityOp.SPOOLED, name))
    return PreviousSpool(
        folder,
        PreviousLog(exists=True, session=SESSION, region_bytes=4096, damaged=False, state=state),
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(RECORDS, st.just("read"), st.just("remove")), max_size=60),
    st.integers(200, 4000),
)
def test_a_spool_is_a_queue_within_its_bounds(
    steps: list[SpoolRecord | str], limit_bytes: int
) -> None:
    folder = MemoryFolder()
    spool, model, refused = Spool(folder, SESSION, limit_bytes=limit_bytes), list[SpoolRecord](), 0
    for step in steps:
        if step == "read" and spool.last > spool.last_read:
            assert spool.read_next() == model[spool.last_read - 1]
        elif step == "remove":
            spool.remove_below(spool.removable_below(spool.last_read + 1))
        elif isinstance(step, SpoolRecord):
            if spool.append(step):
                model.append(step)
            else:
                refused += 1
        assert sum(len(folder.read(name) or b"") for name in folder.names()) <= limit_bytes
    while spool.last > spool.last_read:
        assert spool.read_next() == model[spool.last_read - 1]
    assert [record for _, record in read_spool(folder, SESSION, 1)] == model[spool.first_kept - 1 :]
    assert refused == 0 or sum(record.size_bytes for record in model) + 400 > limit_bytes // 8
    spool.remove_below(spool.last + 1)
    assert spool.is_empty
    assert folder.names() == []


@settings(deadline=None)
@given(st.lists(RECORDS, max_size=20), st.integers(0, 20), st.booleans(), st.data())
def test_a_record_that_must_be_there_is_there_or_is_reported_missing(
    records: list[SpoolRecord], before_sync: int, some_survive: bool, data: st.DataObject
) -> None:
    folder = MemoryFolder()
    spool = Spool(folder, SESSION, limit_bytes=2000)
    records_kept = [record for record in records[:before_sync] if spool.append(record)]
    assert spool.sync()
    synced = spool.last
    records_kept += [record for record in records[before_sync:] if spool.append(record)]
    folder.crash(Random(len(records)) if some_survive else None)
    names = folder.names()
    if names and data.draw(st.booleans(), label="damage"):
        name = data.draw(st.sampled_from(names), label="file")
        bit = data.draw(st.integers(0, 8 * len(folder.read(name) or b" ") - 1), label="bit")
        kind = data.draw(st.sampled_from(("flip", "cut", "gone")), label="kind")
        folder.damage(name, lambda content: _damaged(content, bit, kind))
    else:
        assert not read_back(folder, 1, synced).lost
    valid = dict(read_spool(folder, SESSION, 1))
    numbered = dict(enumerate(records_kept, start=1))
    assert valid.items() <= numbered.items()
    required = set(range(1, synced + 1))
    assert bool(read_back(folder, 1, synced).lost) == (not required <= valid.keys())


def _damaged(content: bytes, bit: int, kind: str) -> bytes | None:
    if kind == "gone":
        return None
    if kind == "cut":
        return content[: bit // 8]
    changed = bytearray(content)
    if changed:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_records_of_another_session_are_ignored() -> None:
    folder = MemoryFolder()
    old = Spool(folder, OTHER, limit_bytes=4000)
    for number in range(40):
        old.append(SpoolRecord(0, "a", bytes([number]) * 60))
    own = Spool(folder, SESSION, limit_bytes=4000)
    own.append(SpoolRecord(0, "a", b"mine"))
    assert [record.value for _, record in read_spool(folder, SESSION, 1)] == [b"mine"]
    assert not read_back(folder, 1, 1).lost
    assert read_back(folder, 1, 2).lost
    remove_spool(folder)
    assert folder.names() == []
