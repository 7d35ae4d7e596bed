"""A client gets what changed after the version that it has, and never a part of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.consumers.dashboard.live_items import ItemChanges, LiveItems
from mirrorlog.consumers.dashboard.page_items import Fields, ItemKey

A, B, C = (ItemKey("volume", name) for name in "abc")
KEYS = (A, B, C)
LOOKS = st.lists(
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(({}, {"n": 1}, {"n": 2}))), max_size=12
)


def taken(held: dict[ItemKey, Fields], changes: ItemChanges) -> dict[ItemKey, Fields]:
    """Return what a client has that had `held`, after the changes."""
    after = {} if changes.is_everything else dict(held)
    after |= dict(changes.items)
    for key in changes.removed:
        after.pop(key, None)
    return after


@given(LOOKS, st.lists(st.booleans(), min_size=12, max_size=12), st.integers(0, 3))
def test_a_client_that_follows_at_any_pace_has_the_last_look(
    looks: list[dict[ItemKey, Fields]], reads: list[bool], max_removed: int
) -> None:
    live = LiveItems("e", max_removed)
    held: dict[ItemKey, Fields] = {}
    version: int | None = None
    for look, reads_now in zip(looks, reads, strict=False):
        live.replace(look)
        if reads_now:
            changes = live.changes_after(version)
            held, version = taken(held, changes), changes.version
            assert held == look
    changes = live.changes_after(version)
    assert taken(held, changes) == (looks[-1] if looks else {})


def test_only_what_changed_is_sent() -> None:
    live = LiveItems("e")
    assert live.replace({A: {"n": 1}, B: {"n": 1}})
    version = live.version
    assert not live.replace({A: {"n": 1}, B: {"n": 1}})
    assert live.changes_after(version) == ItemChanges(version, False, [], [])
    live.replace({A: {"n": 2}, C: {"n": 3}})
    changes = live.changes_after(version)
    assert (dict(changes.items), list(changes.removed)) == ({A: {"n": 2}, C: {"n": 3}}, [B])


def test_an_item_that_comes_back_is_not_removed() -> None:
    live = LiveItems("e")
    for look in ({A: {"n": 1}}, {B: {"n": 1}}, {A: {"n": 1}, B: {"n": 1}}):
        live.replace(look)
    changes = live.changes_after(1)
    assert set(dict(changes.items)) == {A, B}
    assert changes.removed == []


def test_a_version_of_the_future_is_one_of_another_run() -> None:
    live = LiveItems("e")
    live.replace({A: {"n": 1}})
    assert live.changes_after(7).is_everything


def test_forgotten_removals_make_a_client_begin_again() -> None:
    live = LiveItems("e", max_removed=1)
    live.replace({A: {}, B: {}, C: {}})
    live.replace({C: {}})
    assert live.changes_after(1).is_everything
    assert not live.changes_after(2).is_everything
