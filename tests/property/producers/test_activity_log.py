"""A damaged activity log never names fewer writes than the undamaged one did."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlog.producers.durable.activity_format import (
    SET_REGIONS,
    SLOT_BYTES,
    ActivityEntry,
    ActivityOp,
    ActivityState,
    pack_slots,
    read_log,
    region_entries,
)
from mirrorlog.producers.durable.activity_log import FILE_NAME, ActivityLog, carry_over
from mirrorlog.simulation.memory_folder import MemoryFolder

SESSION = str(UUID(int=1))
REGION_BYTES = 4096
NAMES = st.sampled_from(("a", "b", "c" * 200))
SESSIONS = st.integers(1, 4).map(lambda n: str(UUID(int=n)))
ENTRIES = st.one_of(
    st.builds(ActivityEntry, st.just(ActivityOp.SETTLED), NAMES),
    st.builds(
        lambda name, session: ActivityEntry(ActivityOp.OPENED, name, session=session),
        NAMES,
        SESSIONS,
    ),
    st.builds(
        lambda op, name, region: ActivityEntry(op, name, region=region),
        st.sampled_from((ActivityOp.HOT, ActivityOp.COOL)),
        NAMES,
        st.one_of(st.integers(0, 5), st.integers(0, (1 << 64) - 1)),
    ),
    st.builds(
        lambda op, name, regions: ActivityEntry(op, name, regions=tuple(sorted(regions))),
        st.sampled_from((ActivityOp.HOT_SET, ActivityOp.COOL_SET)),
        NAMES,
        st.sets(
            st.one_of(st.integers(0, 5), st.integers(0, (1 << 64) - 1)),
            min_size=1,
            max_size=SET_REGIONS,
        ),
    ),
    st.builds(lambda session: ActivityEntry(ActivityOp.LOST, session=session), SESSIONS),
    st.builds(
        lambda name, position, at_us: ActivityEntry(
            ActivityOp.KNOWN, name, position=position, at_us=at_us
        ),
        NAMES,
        st.integers(-1, (1 << 63) - 1),
        st.integers(0, 1 << 60),
    ),
    st.builds(
        lambda name, partition: ActivityEntry(ActivityOp.FOLLOWED, name, partition=partition),
        NAMES,
        st.integers(0, 2),
    ),
    st.builds(
        lambda partition, position: ActivityEntry(
            ActivityOp.REACHED, partition=partition, position=position, at_us=9, history=SESSION
        ),
        st.integers(0, 2),
        st.integers(-1, (1 << 40)),
    ),
)
APPENDS = st.lists(st.lists(ENTRIES, min_size=1, max_size=12), max_size=12)
ONE_SLOT_EACH = st.lists(st.lists(ENTRIES, min_size=1, max_size=2), min_size=1, max_size=12)


def written(appends: list[list[ActivityEntry]], slots: int = 4) -> tuple[bytes, ActivityState]:
    folder, state = MemoryFolder(), ActivityState()
    log = ActivityLog(folder, SESSION, REGION_BYTES, ActivityState(), slots)
    for entries in appends:
        log.append(entries)
        for entry in entries:
            state.apply(entry)
    folder.crash()
    return folder.read(FILE_NAME) or b"", state


@settings(deadline=None)
@given(APPENDS)
def test_what_was_appended_is_read_back_after_a_power_cut(
    appends: list[list[ActivityEntry]],
) -> None:
    data, state = written(appends)
    log = read_log(data)
    assert (log.exists, log.session, log.region_bytes, log.damaged) == (
        True,
        SESSION,
        REGION_BYTES,
        False,
    )
    assert log.state.lost == state.lost
    named = {
        name: volume
        for name, volume in state.volumes.items()
        if volume.covered or volume.sessions or volume.regions
    }
    assert {name: volume for name, volume in log.state.volumes.items() if name in named} == named


@settings(deadline=None)
@given(APPENDS, st.data())
def test_a_flipped_bit_or_a_missing_end_is_always_noticed(
    appends: list[list[ActivityEntry]], data: st.DataObject
) -> None:
    undamaged, _ = written(appends)
    content = bytearray(undamaged)
    if data.draw(st.booleans(), label="flip"):
        bit = data.draw(st.integers(0, 8 * len(content) - 1), label="bit")
        content[bit // 8] ^= 1 << bit % 8
    else:
        del content[data.draw(st.integers(0, len(content) - 1), label="length") :]
    log = read_log(bytes(content))
    assert log.damaged
    assert not any(
        volume.covered for volume in carry_over(log, REGION_BYTES, set("abc")).volumes.values()
    )


@settings(deadline=None)
@given(ONE_SLOT_EACH, st.data())
def test_a_damaged_log_still_names_the_volumes_of_its_valid_slots(
    appends: list[list[ActivityEntry]], data: st.DataObject
) -> None:
    """One slot is damaged. The volumes in those before it are dirty, their sessions are known."""
    undamaged, _ = written(appends, slots=100)
    damaged = data.draw(st.integers(0, len(appends)), label="slot")
    content = bytearray(undamaged)
    content[damaged * SLOT_BYTES + 100] ^= 0x10
    log = read_log(bytes(content))
    named = {
        entry.volume for n, entries in enumerate(appends, 1) if n < damaged for entry in entries
    } - {""}
    assert named <= log.whole
    assert SESSION in log.state.lost
    assert all(log.state.volumes[name].sessions for name in named)


@given(st.sets(st.integers((1 << 64) - (1 << 20), (1 << 64) - 1), max_size=200), NAMES)
def test_no_set_of_regions_is_larger_than_a_slot(regions: set[int], name: str) -> None:
    entries = list(region_entries(ActivityOp.HOT_SET, name, regions))
    assert [number for entry in entries for number in entry.regions] == sorted(regions)
    for entry in entries:
        assert len(list(pack_slots([entry], SESSION, 1))) == 1
        assert len(next(pack_slots([entry], SESSION, 1))) == SLOT_BYTES


def test_neighbouring_regions_share_a_slot() -> None:
    entries = [
        *region_entries(ActivityOp.COOL_SET, "a-volume", range(100, 3000, 45)),
        *region_entries(ActivityOp.HOT_SET, "a-volume", range(5000, 5033)),
    ]
    assert len(list(pack_slots(entries, SESSION, 1))) == 1


@given(st.binary(max_size=3000))
def test_other_bytes_are_read_as_a_damaged_log(data: bytes) -> None:
    assert read_log(data).damaged


@given(
    st.sets(st.integers(0, 40), max_size=8),
    st.sampled_from((1, 3, 4, 8, 12)),
    st.sampled_from((1, 2, 4, 6, 24)),
)
def test_regions_of_another_size_cover_the_same_bytes(
    regions: set[int], old_bytes: int, new_bytes: int
) -> None:
    folder = MemoryFolder()
    entries = [
        ActivityEntry(ActivityOp.OPENED, "a", session=SESSION),
        *region_entries(ActivityOp.HOT_SET, "a", regions),
    ]
    ActivityLog(folder, SESSION, old_bytes, ActivityState(), 4).append(entries)
    carried = carry_over(read_log(folder.read(FILE_NAME)), new_bytes, {"a"}).volumes["a"].regions
    old = {byte for n in regions for byte in range(n * old_bytes, (n + 1) * old_bytes)}
    new = {byte for n in carried for byte in range(n * new_bytes, (n + 1) * new_bytes)}
    assert old <= new
    assert carried == {byte // new_bytes for byte in old}
