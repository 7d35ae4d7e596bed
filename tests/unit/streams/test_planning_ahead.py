"""A flush that is planned while the one before is written is the flush that would follow it.

The simulated node compares both whenever it uses one (NodeModel in mirrorlog/simulation/world).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from notation import command, volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.host_keys import HostKeys
from mirrorlog.reading.catalog import publish_volume
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.world.crashes import Fuse
from mirrorlog.simulation.world.node import NodeModel
from mirrorlog.simulation.world.world import World as WholeWorld
from mirrorlog.streams.fold import flush_plan, named_sessions
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.batch_plan import PlannedFlush, RowsAfter
from mirrorlog.streams.fold.flush_plan import FlushPlan
from mirrorlog.tracking_log.heads import SessionBeat, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import beat_key, head_key, watermark_key

BEAT = {"name": "", "kind": CommandKind.HEARTBEAT, "sequence": -1, "generation": ""}


class Keys:
    def __init__(self) -> None:
        self.keys = HostKeys({}, {})

    def current(self) -> HostKeys:
        return self.keys


class World:
    """A node with volumes "v" and "w", whose session is open."""

    def __init__(self) -> None:
        self.settings, self.broker = Settings(), MemoryBroker()
        self.broker.create(self.settings.topics.specs(single_copy=True), 1)
        publisher = self.broker.publisher()
        for name in ("v", "w"):
            publish_volume(publisher, self.settings.topics, volume(name))
        publisher.flush(0)
        self.node = NodeModel(self.broker, self.settings, Fuse(), Random(1))
        self.node._ahead_random.random = lambda: 1.0  # type: ignore[method-assign]
        self.folder, self.table = self.node._folder, self.node._table
        self.keys = Keys()
        self.folder.judge_by(self.keys)
        self.publish("", kind=CommandKind.SESSION_OPEN)
        self.record(0)

    def publish(self, extents: str, **fields: object) -> None:
        event = command(extents, **fields)  # type: ignore[arg-type]
        self.broker.append(self.settings.topics.commands, 0, b"v", encode(event))

    def batch(self, *positions: int) -> EventBatch:
        messages = self.broker.messages(self.settings.topics.commands)
        return EventBatch.from_messages([messages[position] for position in positions])

    def record(self, *positions: int, ahead: PlannedFlush | None = None) -> FlushPlan:
        """Record the commands; return what was written."""
        plans: list[FlushPlan] = []
        self.table.before_flush = plans.append
        batch = self.batch(*positions) if ahead is None else ahead.batch
        asyncio.run(self.folder.record(batch, ahead))
        (plan,) = plans
        return plan

    def plan_while_recording(self, recorded: int, batch: Sequence[int]) -> PlannedFlush | None:
        """Record a command; return what was planned of `batch` when its rows were sent."""
        planned: list[PlannedFlush | None] = []
        send = self.table._send

        async def sending(messages):  # type: ignore[no-untyped-def]
            planned.append(self.folder.plan_ahead(self.batch(*batch)))
            return await send(messages)

        self.table._send = sending
        self.record(recorded)
        self.table._send = send
        return planned[1]  # while its records are sent

    def row(self, key: bytes) -> bytes:
        value = self.node.store.get(0, key)
        assert value is not None
        return value


@pytest.fixture
def world() -> World:
    made = World()
    made.publish("0+4096", sequence=1)
    made.publish("8192+4096", sequence=2)
    return made


def test_a_plan_made_ahead_is_written_if_nothing_has_changed(world: World) -> None:
    planned = world.plan_while_recording(1, [2])
    assert planned is not None
    assert world.table.complete_through(0) == 1
    assert world.record(ahead=planned) is planned.plan
    (record,) = planned.plan.packed
    assert (record.header.after, record.header.through) == (1, 2)
    (head,) = world.table.heads(0, ["v"]).values()
    assert (head.through, head.sessions[0].last_sequence) == (2, 2)
    assert world.table.complete_through(0) == 2


def other_head(world: World) -> None:
    head = decode(world.row(head_key("v")), VolumeHead)
    world.node.store.rows[0][head_key("v")] = encode(replace(head, through=0))


def no_head(world: World) -> None:
    del world.node.store.rows[0][head_key("v")]


def other_watermark(world: World) -> None:
    mark = decode(world.row(watermark_key(0)), Watermark)
    world.node.store.rows[0][watermark_key(0)] = encode(replace(mark, at_us=mark.at_us + 1))


def other_description(world: World) -> None:
    world.node._catalog.take(replace(world.node._catalog["v"], described_position=1))


def other_keys(world: World) -> None:
    world.keys.keys = HostKeys({}, {})


@pytest.mark.parametrize(
    "change", [other_head, no_head, other_watermark, other_description, other_keys]
)
def test_a_plan_made_of_what_has_changed_since_is_made_again(
    world: World, change: Callable[[World], None]
) -> None:
    planned = world.plan_while_recording(1, [2])
    assert planned is not None
    change(world)
    assert world.record(ahead=planned) is not planned.plan
    assert world.table.complete_through(0) == 2


def test_a_plan_made_of_other_heartbeats_is_made_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (flush_plan, named_sessions):
        monkeypatch.setattr(module, "FEW_SESSIONS", 1)
    world.publish("", **BEAT, session="t")
    world.publish("0+4096", sequence=0, session="t", kind=CommandKind.BARRIER)
    assert world.record(1, 2)
    planned = world.plan_while_recording(3, [4])
    assert planned is not None
    assert planned.read.beats == {"t": 3}, "the heartbeat of the flush before"
    beat = decode(world.row(beat_key("t")), SessionBeat)
    world.node.store.rows[0][beat_key("t")] = encode(replace(beat, position=2))
    assert world.record(ahead=planned) is not planned.plan


def test_a_plan_is_not_used_for_another_batch(world: World) -> None:
    planned = world.plan_while_recording(1, [2])
    assert planned is not None
    other = replace(planned, batch=world.batch(2))
    plans: list[FlushPlan] = []
    world.table.before_flush = plans.append
    asyncio.run(world.folder.record(planned.batch, other))
    assert plans[0] is not planned.plan


@pytest.mark.parametrize("batch", [[3], [2, 4], [1, 2], [0]])
def test_only_what_directly_follows_a_flush_is_planned_ahead(
    world: World, batch: list[int]
) -> None:
    for sequence in (3, 4):
        world.publish("", sequence=sequence)
    assert world.plan_while_recording(1, batch) is None


def test_nothing_is_planned_ahead_of_a_replay_or_without_a_flush(world: World) -> None:
    assert world.folder.plan_ahead(world.batch(1)) is None, "nothing is written now"
    world.record(1, 2)
    assert world.plan_while_recording(1, [2]) is None, "the watermark is that of the table"


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "unknown"},
        {"kind": CommandKind.RESIZE, "size_bytes": 1 << 21},
        {"text": f"{1 << 20}+1"},
    ],
    ids=["of no known volume", "changes its volume", "outside"],
)
def test_what_must_look_at_the_descriptions_first_is_planned_in_its_turn(
    world: World, fields: dict[str, object]
) -> None:
    world.publish(str(fields.pop("text", "")), sequence=3, **fields)
    before = dict(world.node._catalog)
    assert world.plan_while_recording(1, [2, 3]) is None
    assert dict(world.node._catalog) == before


def test_a_volume_without_a_history_is_planned_in_its_turn(world: World) -> None:
    world.node._catalog._volumes["w"] = replace(world.node._catalog["w"], history_id=None)
    world.publish("0+4096", name="w")
    assert world.plan_while_recording(1, [2, 3]) is None
    assert world.node._catalog["w"].history_id is None


def test_a_command_that_knows_more_than_the_topic_is_planned_in_its_turn(world: World) -> None:
    world.publish("", sequence=3, acknowledged_position=7)
    assert world.plan_while_recording(1, [2, 3]) is None


def test_rows_after_a_flush_are_those_of_its_plan_before_those_of_the_log(world: World) -> None:
    world.publish("", **BEAT, session="a")  # 3
    world.publish("", **BEAT, session="b")
    world.record(1, 2, 3, 4)
    world.publish("", **BEAT, session="b")  # 5
    world.publish("", **BEAT | {"kind": CommandKind.SESSION_CLOSE}, session="a")
    world.publish("0+4096", name="w")
    before = world.node.left_behind()._table
    plan = world.record(5, 6, 7)
    names, sessions = ["v", "w", "x"], {"a", "b", "c"}
    rows = RowsAfter(before, plan)
    assert before.beats(0, sessions) == {"a": 3, "b": 4}
    assert rows.beats(0, sessions) == world.table.beats(0, sessions) == {"b": 5}
    assert before.heads(0, names).keys() == {"v"}
    assert rows.heads(0, names) == world.table.heads(0, names)
    assert rows.watermark(0) == world.table.watermark(0)


def test_the_simulated_node_plans_ahead() -> None:
    world = WholeWorld(3)
    for _ in range(200):
        world.act()
    assert world.node.planned_ahead > 0
