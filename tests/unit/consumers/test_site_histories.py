"""A site's positions count only in the history in which they were taken."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from notation import GENERATION, record, volume

from mirrorlog.consumers.resync.command_ends import OwnCommandEnds
from mirrorlog.consumers.resync.cycle import next_step
from mirrorlog.consumers.resync.cycle_steps import CycleInput, Idle, Resync
from mirrorlog.consumers.resync.history_watch import HistoryWatch
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.consumers.state.state_files import decode_state, encode_state
from mirrorlog.domain.histories import History, anchor_of
from mirrorlog.domain.site_progress import Rung
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.site_log import SiteLog

OLD, NEW = (str(UUID(int=number)) for number in (1, 2))
ANCHORS = {"old": "0" * 32, "new": "1" * 32}
TOPICS = Topics()

# saved position/history | history of the log, and of the description (x: another one) | step, and
# what it saves
STEPS = """
4/old | old | idle CONSISTENT
4/old | new | all: changed from
4/-   | new | idle CONSISTENT
4/-   | -   | idle CONSISTENT
4/old | -   | all: an older node wrote the log
4/old | x   | idle WAITING
-     | x   | idle WAITING
"""


@pytest.mark.parametrize("case", STEPS.strip().splitlines())
def test_a_position_of_another_history_takes_the_next_rung(case: str) -> None:
    text, now, expected = (part.strip() for part in case.split("|"))
    position, _, history = text.partition("/")
    saved = None
    if position != "-":
        saved = SecondaryState(
            "v",
            GENERATION,
            applied_position=int(position),
            consistent_position=int(position),
            rung="changed",  # type: ignore[arg-type]
            history_id={"old": OLD, "-": None}[history],
        )
    is_other = now == "x"
    cycle_input = CycleInput(
        volume=volume(),
        log=SiteLog(VolumeLog(), VolumeLog(), "a"),
        watermark=None if is_other else 9,
        read_end=None,
        secondary_zeroed=False,
        history_id={"old": OLD, "new": NEW}.get(now),
        anchor=ANCHORS["new"],
        is_other_history=is_other,
    )
    step = next_step(saved, cycle_input)
    kind, _, rest = expected.partition(" ")
    if kind == "idle":
        assert isinstance(step, Idle) and step.state == rest
        return
    assert isinstance(step, Resync) and rest in (step.reason or "")
    assert (step.running.history_id, step.running.anchor) == (cycle_input.history_id, None)
    assert (step.done.applied_position, step.done.anchor) == (9, ANCHORS["new"])


def test_a_state_names_the_history_and_the_anchor_of_its_position() -> None:
    log = VolumeLog()
    log.add(record("4..9", "1"))
    saved = SecondaryState(
        "v", GENERATION, applied_position=4, consistent_position=4, anchor=ANCHORS["old"]
    )
    step = next_step(
        saved,
        CycleInput(
            volume=volume(),
            log=SiteLog(log, VolumeLog(), "a"),
            watermark=9,
            read_end=None,
            secondary_zeroed=False,
            history_id=NEW,
            anchor=ANCHORS["new"],
        ),
    )
    assert isinstance(step, Resync) and step.blocks is not None
    assert (step.running.applied_position, step.running.anchor) == (4, ANCHORS["old"])
    assert (step.done.applied_position, step.done.anchor) == (9, ANCHORS["new"])
    assert step.running.history_id == step.done.history_id == NEW  # taken over
    for state in (step.running, step.done):
        assert decode_state(encode_state(state), "v", "here") == state


def test_a_copy_that_goes_on_keeps_the_anchor_of_its_beginning() -> None:
    log = VolumeLog()
    log.add(record("4..9", "1"))
    saved = SecondaryState(
        "v",
        GENERATION,
        cycle_through=4,
        rung=Rung.ALLOCATED,
        history_id=NEW,
        anchor=ANCHORS["old"],
        copied_bytes=4096,
    )
    cycle_input = CycleInput(
        volume=volume(),
        log=SiteLog(log, VolumeLog(), "a"),
        watermark=9,
        read_end=None,
        secondary_zeroed=False,
        history_id=NEW,
        anchor=ANCHORS["new"],
    )
    step = next_step(saved, cycle_input)
    assert isinstance(step, Resync) and step.running == saved
    assert (step.done.applied_position, step.done.anchor) == (4, ANCHORS["old"])


# the topic since then | what the site finds: of the log, of the saved position
FOUND = """
same          | -                | -
grew          | -                | -
created again | created again    | created again
went back     | ends at position | ends at position
reused        | -                | holds another command
went back a little | ends at position | -
"""


@pytest.mark.parametrize("is_copying", [False, True])
@pytest.mark.parametrize("case", FOUND.strip().splitlines())
def test_the_log_and_saved_positions_are_held_against_the_topic(
    case: str, is_copying: bool
) -> None:
    what, of_log, of_saved = (part.strip() for part in case.split("|"))
    broker = MemoryBroker()
    broker.create(TOPICS.specs(single_copy=True), 1)
    for number in range(10):
        broker.append(TOPICS.commands, 0, b"v", b"%d" % number)
    history = History(cluster="memory", topic=broker.identity(TOPICS.commands), epoch=1, id=OLD)
    watermark = Watermark(partition=0, through=9, at_us=0, history=history)
    saved = SecondaryState(
        "v",
        GENERATION,
        applied_position=5,
        history_id=OLD,
        anchor=anchor_of(b"v", b"5").hex(),
    )
    if is_copying:
        saved = replace(
            saved, applied_position=None, cycle_through=5, rung=Rung.FULL, copied_bytes=4096
        )
    older = replace(saved, volume="w", anchor=anchor_of(b"v", b"2").hex())
    older = replace(older, **{"cycle_through" if is_copying else "applied_position": 2})
    if what == "grew":
        broker.append(TOPICS.commands, 0, b"v", b"more")
    if what == "created again":
        broker.delete([TOPICS.commands])
        broker.create(TOPICS.specs(single_copy=True), 1)
    if "went back" in what or what == "reused":
        broker.rewind(TOPICS.commands, 0, 7 if "little" in what else 3)
    for number in range(20 if what in ("created again", "reused") else 0):
        broker.append(TOPICS.commands, 0, b"v", b"other %d" % number)
    ends = OwnCommandEnds(
        broker.reader, broker, TOPICS.commands, ManualClock(), 5.0, lambda _: None
    )
    watch = HistoryWatch(ends.commands_now)
    assert watch.look(0, watermark, [older, saved]) is (of_log != "-")
    assert of_log in watch.ended.get(0, "-")
    for name in ("v", "w"):  # one command is read for all secondaries of a partition
        assert of_saved in (watch.take_other(name) or "-")
        assert watch.take_other(name) is None
    renewed = Watermark(
        partition=0,
        through=broker.end_position(TOPICS.commands, 0) - 1,
        at_us=0,
        history=replace(history, epoch=2, id=NEW, topic=broker.identity(TOPICS.commands)),
    )
    assert watch.look(0, renewed, [saved]) is (of_log != "-")
    assert not watch.ended and watch.take_other("v") is None
