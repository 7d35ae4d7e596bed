"""Digests of commands, by which a position that was used again is found."""

from __future__ import annotations

from itertools import combinations

from mirrorlog.domain.histories import ANCHOR_BYTES, anchor_of


def test_messages_that_differ_have_other_anchors() -> None:
    messages = [(None, None), (None, b""), (b"", None), (b"", b""), (b"a", b"b"), (b"ab", b"")]
    anchors = [anchor_of(key, value) for key, value in messages]
    assert all(one != other for one, other in combinations(anchors, 2))
    assert {len(anchor) for anchor in anchors} == {ANCHOR_BYTES}


def test_the_anchor_of_a_message_never_changes() -> None:
    assert anchor_of(b"v", b"command").hex() == "cef173bd05596d20b9fb59f408a0d92d"
