"""What a host knows of writes that another process forks, by their numbers."""

from __future__ import annotations

import numpy as np
import pytest

from mirrorlog.domain.commands import ForkOutcome
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.producers.batches.batch import InFlightWrite
from mirrorlog.producers.forks.fork_spans import ForkSpans
from mirrorlog.producers.forks.linked_writes import KnownWrites, LinkedWrites

# what happened to the secondary | the fates of the writes 0 to 9: Missed, Has, Open, hUng
SPANS = """
                                  | MMMMMMMMMM
join 3                            | MMMOOOOOOO
join 3, flushed 6                 | MMMHHHOOOO
join 3, flushed 6, left 8         | MMMHHHMMMM
join 3, left 8, busy 5 7          | MMMMMUUMMM
join 3, left 8, busy 5 7, returned| MMMMMMMMMM
join 1, flushed 3, left 4, join 6 | MHHMMMOOOO
join 1, flushed 3, left 4, join 6, flushed 8 | MHHMMMHHOO
join 1, flushed 3, left 4, join 6, forget    | MMMMMMOOOO
"""


def spans_of(story: str) -> ForkSpans:
    spans = ForkSpans()
    left = 0
    for event in filter(None, (part.strip() for part in story.split(","))):
        match event.split():
            case ["join", number]:
                spans.join(int(number))
            case ["flushed", number]:
                spans.note_flushed(int(number))
            case ["left", number]:
                left = int(number)
                if "busy" not in story:
                    spans.leave(left, range(0))
            case ["busy", first, end]:
                spans.leave(left, range(int(first), int(end)))
            case ["returned"]:
                assert spans.is_hung
                spans.note_returned()
            case ["forget"]:
                spans.forget()
    return spans


@pytest.mark.parametrize("case", SPANS.strip("\n").splitlines())
def test_a_number_says_what_became_of_a_write(case: str) -> None:
    story, fates = case.split("|")
    numbers = np.arange(10, dtype=np.uint64)
    assert "".join("MHOU"[fate] for fate in spans_of(story).fates(numbers)) == fates.strip()


def test_writes_are_passed_on_when_each_secondary_has_an_outcome() -> None:
    known: list[KnownWrites] = []
    spans = {"x": spans_of("join 1"), "y": spans_of("join 3")}
    linked = LinkedWrites(spans, known.append)
    writes = [InFlightWrite(ExtentKind.WRITE, at, 1, 0, ()) for at in range(5)]
    linked.add(writes, np.arange(5, dtype=np.uint64), ())
    linked.resolve()
    assert [(k.writes, k.outcomes, k.is_last) for k in known] == [(writes[:1], [{}], False)]
    has, is_open = ForkOutcome.HAS, ForkOutcome.OPEN
    assert [linked.outcomes()[id(write)] for write in writes[1:]] == [
        {"x": is_open},
        {"x": is_open},
        {"x": is_open, "y": is_open},
        {"x": is_open, "y": is_open},
    ]
    assert linked.has_open(below=2) and not linked.has_open(below=1)

    spans["x"].note_flushed(5)
    spans["y"].leave(5, range(4, 5))
    linked.resolve()
    assert [(k.writes, k.outcomes, k.is_last) for k in known[1:]] == [
        (writes[1:4], [{"x": has}] * 3, False)
    ]
    assert not linked.has_open(below=9)  # the last one hangs at y
    assert linked.missed_at("y", since=3) is writes[4]
    assert linked.missed_at("x", since=0) is None

    spans["y"].note_returned()
    linked.resolve()
    assert [(k.writes, k.outcomes, k.is_last) for k in known[2:]] == [
        (writes[4:], [{"x": has}], True)
    ]
    assert spans["y"].spans == []
