"""What shows, when a partition is assigned, that its history ended."""

from __future__ import annotations

import pytest
from notation import GENERATION, OTHER_GENERATION, volume

from mirrorlog.domain.histories import History
from mirrorlog.streams.history.evidence import (
    AssignedPartition,
    KnownWatermark,
    ended_reason,
    unbroken_through,
)
from mirrorlog.tracking_log.breaks import CommandsNow
from mirrorlog.tracking_log.heads import Watermark

# the log's watermark as through/epoch, and what the topic holds there now (- is nothing known)
# | a discarded table's, the same way | kept from..end of topic t | volumes as origin/epoch/topic
# | what shows that the history ended
CASES = """
the history goes on
9/1 same | -         | 0..10 | -1/1/t       | none
9/1 same | -         | 0..99 | 5/0/-  9/1/t | none
-        | -         | 0..0  |              | none
-        | -         | 0..0  | -1/0/-       | none
the log was lost, and the commands weren't
-        | -         | 0..9  | -1/1/t       | none
-        | 9/1 same  | 0..99 | -1/1/t       | none
2/1 same | 9/1 same  | 0..99 | -1/1/t       | none
the log was lost, and the commands too
-        | -         | 0..9  | -1/1/u       | isn't the one in which v0 were described
-        | -         | 0..9  | -1/1/t 3/2/t | in more than one history
-        | -         | 0..9  | 9/1/t        | volume v0 is described as of position 9
the topic was created again, or went back
9/1 new  | -         | 0..99 | -1/1/t       | created again
9/1 -    | -         | 0..9  | -1/1/t       | ends at position 9
9/1 diff | -         | 0..99 | -1/1/t       | holds another command
log and commands went back together
2/1 same | 9/1 diff  | 0..99 | -1/1/t       | position 9 holds another command
2/1 same | 9/1 -     | 0..5  | -1/1/t       | ends at position 5
2/1 same | -         | 0..5  | 7/0/-        | volume v0 is described as of position 7
2/1 same | -         | 0..5  | -1/2/t       | a renewal wasn't finished
2/1 same | 2/2 same  | 0..5  | -1/1/t       | rows of epoch 2 are known
retention deleted commands that nobody folded
5/1 -    | -         | 9..20 | -1/1/t       | lost for the volumes v0
5/1 -    | -         | 9..20 | 8/1/t        | none
5/1 -    | -         | 9..20 | 8/1/t 7/1/t  | lost for the volumes v1
-        | -         | 9..20 | 7/0/-        | lost for the volumes v0
-        | -         | 9..20 | 8/0/-        | none
"""


def known(text: str, first_kept: int, end: int) -> KnownWatermark | None:
    if text == "-":
        return None
    position, now = text.split()
    through, epoch = (int(number) for number in position.split("/"))
    history = History(cluster="c", topic="t", epoch=epoch, id=GENERATION)
    anchor = {"same": b"a", "diff": b"b", "new": b"a", "-": None}[now]
    return KnownWatermark(
        Watermark(partition=0, through=through, at_us=0, history=history, anchor=b"a"),
        CommandsNow(
            topic="u" if now == "new" else "t", first_kept=first_kept, end=end, anchor=anchor
        ),
    )


@pytest.mark.parametrize("case", [line for line in CASES.strip().splitlines() if "|" in line])
def test_the_history_goes_on_unless_something_shows_that_it_ended(case: str) -> None:
    of_log, of_discarded, kept, described, expected = (part.strip() for part in case.split("|"))
    first_kept, end = (int(number) for number in kept.split(".."))
    volumes = []
    for number, text in enumerate(described.split()):
        origin, epoch, topic = text.split("/")
        fields = {"history_id": (GENERATION, OTHER_GENERATION)[int(epoch) - 1]}
        volumes.append(
            volume(
                f"v{number}",
                origin_position=int(origin),
                epoch=int(epoch),
                topic_id=None if topic == "-" else topic,
                **(fields if int(epoch) else {}),
            )
        )
    tables = known(of_log, first_kept, end), known(of_discarded, first_kept, end)
    reason = ended_reason(
        AssignedPartition(
            of_log=tables[0],
            of_discarded=tables[1],
            newest_epoch=max((table.watermark.epoch for table in tables if table), default=0),
            replaced=(),
            topic="t",
            first_kept=first_kept,
            end=end,
            volumes=volumes,
        )
    )
    assert expected in (reason or "none"), reason


def test_a_head_of_an_earlier_history_than_the_watermark_ends_the_history() -> None:
    described = volume("v0", epoch=2, topic_id="t", history_id=OTHER_GENERATION)
    facts = AssignedPartition(
        of_log=known("9/2 same", 0, 10),
        of_discarded=None,
        newest_epoch=2,
        replaced=("v0",),
        topic="t",
        first_kept=0,
        end=10,
        volumes=[described],
    )
    assert "took the place of those of the volumes v0" in (ended_reason(facts) or "")


# positions of notes whose command is the same | those whose command differs | kept from..end
# | the history holds through
NOTES = """
        |         | 0..9  | -1
        |         | 5..9  | 4
3       |         | 0..9  | 3
1 3 5   | 7 8     | 0..9  | 5
1 3 5 7 |         | 0..9  | 7
        | 1 3     | 0..9  | -1
1 3     |         | 2..9  | 3
1       | 3       | 2..9  | 1
3       | 12      | 0..9  | 3
"""


@pytest.mark.parametrize("case", NOTES.strip("\n").splitlines())
def test_the_next_history_begins_behind_the_last_command_that_is_still_the_same(case: str) -> None:
    same, differ, kept, expected = (part.strip() for part in case.split("|"))
    first_kept, end = (int(number) for number in kept.split(".."))
    notes = [
        Watermark(partition=0, through=int(text), at_us=0, anchor=text.encode())
        for text in [*same.split(), *differ.split()]
    ]
    looks: list[int] = []

    def anchors(position: int) -> bytes | None:
        looks.append(position)
        return str(position).encode() if str(position) in same.split() else b"another"

    assert unbroken_through(notes, anchors, first_kept=first_kept, end=end) == int(expected)
    assert len(looks) <= 3


def test_notes_without_an_anchor_prove_nothing() -> None:
    note = Watermark(partition=0, through=5, at_us=0)
    assert unbroken_through([note], lambda _: None, first_kept=0, end=9) == -1
