"""A damaged activity log never names less than the sound one did."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlog.producers.durable.activity_format import (
    SLOT_BYTES,
    ActivityEntry,
    ActivityOp,
    ActivityState,
    read_log,
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
    st.builds(lambda session: ActivityEntry(ActivityOp.LOST, session=session), SESSIONS),
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
    found = read_log(data)
    assert (found.found, found.session, found.region_bytes, found.damaged) == (
        True,
        SESSION,
        REGION_BYTES,
        False,
    )
    assert found.state.lost == state.lost
    told = {
        name: volume
        for name, volume in state.volumes.items()
        if volume.covered or volume.sessions or volume.regions
    }
    assert {name: volume for name, volume in found.state.volumes.items() if name in told} == told


@settings(deadline=None)
@given(APPENDS, st.data())
def test_no_flipped_bit_and_no_missing_end_passes_for_sound(
    appends: list[list[ActivityEntry]], data: st.DataObject
) -> None:
    sound, _ = written(appends)
    content = bytearray(sound)
    if data.draw(st.booleans(), label="flip"):
        bit = data.draw(st.integers(0, 8 * len(content) - 1), label="bit")
        content[bit // 8] ^= 1 << bit % 8
    else:
        del content[data.draw(st.integers(0, len(content) - 1), label="length") :]
    found = read_log(bytes(content))
    assert found.damaged
    assert not any(
        volume.covered for volume in carry_over(found, REGION_BYTES, set("abc")).volumes.values()
    )


@settings(deadline=None)
@given(ONE_SLOT_EACH, st.data())
def test_what_is_left_of_a_damaged_log_still_names_its_volumes(
    appends: list[list[ActivityEntry]], data: st.DataObject
) -> None:
    """All but one slot is whole: whatever the others name is dirty as a whole, and its sessions can be closed."""
    sound, _ = written(appends, slots=100)
    hit = data.draw(st.integers(0, len(appends)), label="slot")
    content = bytearray(sound)
    content[hit * SLOT_BYTES + 100] ^= 0x10
    found = read_log(bytes(content))
    named = {
        entry.volume for n, entries in enumerate(appends, 1) if n < hit for entry in entries
    } - {""}
    assert named <= found.whole
    assert SESSION in found.state.lost
    assert all(found.state.volumes[name].sessions for name in named)


@given(st.binary(max_size=3000))
def test_anything_that_is_no_log_is_damaged(data: bytes) -> None:
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
        *(ActivityEntry(ActivityOp.HOT, "a", region=n) for n in regions),
    ]
    ActivityLog(folder, SESSION, old_bytes, ActivityState(), 4).append(entries)
    heirs = carry_over(read_log(folder.read(FILE_NAME)), new_bytes, {"a"}).volumes["a"].regions
    old = {byte for n in regions for byte in range(n * old_bytes, (n + 1) * old_bytes)}
    new = {byte for n in heirs for byte in range(n * new_bytes, (n + 1) * new_bytes)}
    assert old <= new
    assert heirs == {byte // new_bytes for byte in old}
