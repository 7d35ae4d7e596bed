"""A worker that has lost its partition writes heads of a lost history behind a renewal.

It was stopped in the middle of a flush, and goes on when another worker has renewed the history.
Whatever compaction leaves then, and whoever starts again, no site claims more than is true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from threading import Thread

import pytest

from mirrorlog.errors import OutOfRetention
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.simulation.world.node import NodeModel
from mirrorlog.simulation.world.world import World
from mirrorlog.streams.fold import fold_batch
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.history import partition_histories
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.streams.table.outgoing import Outgoing

UNPUBLISHED = 9


def started() -> World:
    """Return a world in which the secondaries are consistent, and a session is open."""
    world = World(3)
    world.hold_primaries_still()
    for name in world.volumes:
        for block in range(5):
            world.host.write_block(name, block)
    for _ in range(10):
        world.host.heartbeat()
        world.fold_and_commit()
        world.run_round()
    assert world.site.is_consistent()
    return world


def write_all(world: World, block: int) -> None:
    for name in world.volumes:
        world.host.write_block(name, block)
    world.host.publish_all()


def flush_late(world: World, meanwhile: Callable[[], None]) -> None:
    """Let a worker flush what waits. It is stopped before its rows, and goes on after `meanwhile`.

    It notices only then that the changelog went back, if it did.
    """
    lost = world.node.left_behind()
    commands = world.broker.messages(world.settings.topics.commands)
    waiting = [message for message in commands if message.position > through_of(lost)]
    changelog, stops = world.settings.topics.changelog, [True]

    async def send(messages: Sequence[Outgoing]) -> list[int]:
        if stops and messages and messages[0].topic == changelog:
            stops.clear()
            others = Thread(target=meanwhile)
            others.start()
            others.join()
        return await NodeModel.send(lost, messages)

    lost._table._send = send
    end = world.broker.end_position(changelog, 0)
    try:
        asyncio.run(lost._folder.record(EventBatch.from_messages(waiting)))
    except OutOfRetention:
        assert world.broker.end_position(changelog, 0) < end + 10
    assert not stops


def through_of(node: NodeModel) -> int:
    return node._table.complete_through(0)


def epoch_of(node: NodeModel) -> int:
    watermark = node._table.watermark(0)
    return 0 if watermark is None else watermark.epoch


def renew(world: World) -> None:
    """Let the world's worker notice that the history ended, and all follow the next one."""
    before = world.node.history_id
    world.history_faults.broken = True
    world.host.lose_positions(world.broker.end_position(world.settings.topics.commands, 0))
    world.site.note_ended(before)
    world.node.note_outage()
    world.host.publish_all()
    for _ in range(2):
        world.node.start()
        world._fold_all()
        world.follow_descriptions()
        world.host.heartbeat()
        world._fold_all()
    assert world.node.history_id != before


def create_commands_again(world: World) -> None:
    world.history_faults._create_commands_again()
    renew(world)


def lose_renewal(world: World) -> None:
    """Restore a backup of before the renewal: nothing that the worker finds names its epoch."""
    for topic, end in world.history_faults._ends[0].items():
        world.broker.rewind(topic, 0, min(end, world.broker.end_position(topic, 0)))
    world.broker.rewind(world.settings.topics.commands, 0, 5)
    world.node.store.reset(0, "another changelog")
    world.node.store.forget_discarded(0)
    renew(world)


def go_on(world: World, *, compacts: bool, restarts: bool, through: int) -> None:
    """Start a site anew beside a write that isn't published, and check what it claims.

    through: the commands go on to this position at least.
    """
    if restarts:
        world.node.store.reset(0, "another changelog")
        world.restart_node()
    world.host.write_block("w", UNPUBLISHED)
    if compacts:
        world.compact()
    world.site.start()
    for number in range(15 + through):
        world.run_round()
        world.site.check_reports()
        world.host.write_block("u", 10)
        world.host.publish("u")
        world._fold_all()
        world.node.maintain()
        if compacts and number % 10 == 0:
            world.compact()
    world.finish_after_history_faults()


def older(*, compacts: bool, restarts: bool) -> None:
    world = started()
    write_all(world, 7)
    flush_late(world, lambda: create_commands_again(world))
    go_on(world, compacts=compacts, restarts=restarts, through=0)


def same(*, compacts: bool, restarts: bool) -> None:
    world = started()
    world.history_faults.note_ends()
    write_all(world, 7)
    world._fold_all()
    create_commands_again(world)
    for _ in range(20):
        world.host.write_block("u", 8)
        world.host.publish_all()  # of w, too: a batch without a write
        world._fold_all()
    world.host.publish_all()
    flush_late(world, lambda: lose_renewal(world))
    go_on(world, compacts=compacts, restarts=restarts, through=60)


@pytest.mark.parametrize("compacts", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("scenario", [older, same])
def test_heads_of_a_lost_history_behind_a_renewal_make_no_claim_untrue(
    scenario: Callable[..., None], compacts: bool, restarts: bool
) -> None:
    scenario(compacts=compacts, restarts=restarts)


def renew_beside() -> World:
    """Let a worker that has lost its partition renew the history, too, and in a later epoch."""
    world = started()
    write_all(world, 7)
    lost = world.node.left_behind()
    create_commands_again(world)
    lost._histories._draw = lambda most: 2 * most
    asyncio.run(lost._histories.renew(0, "it has noticed, too"))
    assert epoch_of(lost) == world.described("v").epoch > epoch_of(world.node)
    for _ in range(60):
        world.host.heartbeat()
        try:
            world._fold_all()
        except OutOfRetention as error:
            assert "another worker renewed" in error.what
            world.restart_node()
        world.node.maintain()
        world.follow_descriptions()
        world.run_round()
        world.site.check_reports()
    return world


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands come all the time, so no pause lets a worker look."""
    monkeypatch.setattr(fold_batch, "_PAUSE_S", 1e9)


@pytest.mark.usefixtures("no_pause")
def test_a_history_that_is_renewed_beside_that_of_the_successor_is_overruled() -> None:
    world = renew_beside()
    assert {world.described(name).epoch for name in world.volumes} == {epoch_of(world.node)}
    assert world.site.is_consistent()
    world.finish_after_history_faults()


@pytest.mark.usefixtures("no_pause")
def test_a_successor_that_does_not_look_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogTable, "take_doubt", lambda *_: False)
    assert not renew_beside().site.is_consistent()


def test_a_worker_that_lost_its_partition_stops_where_its_successor_has_renewed() -> None:
    world = started()
    write_all(world, 7)
    lost = world.node.left_behind()
    create_commands_again(world)
    before = {name: world.described(name) for name in world.volumes}
    with pytest.raises(OutOfRetention, match="another worker renewed"):
        asyncio.run(lost._folder._fold_again(a_batch(world), "it has noticed, too"))
    assert {name: world.described(name) for name in world.volumes} == before


def a_batch(world: World) -> EventBatch:
    return EventBatch.from_messages(world.broker.messages(world.settings.topics.commands)[:1])


def test_a_reader_that_takes_no_head_for_no_session_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LogReader, "_note_replaced", lambda *_: None)
    monkeypatch.setattr(LogTable, "take_strangers", lambda *_: False)
    with pytest.raises(AssertionError, match="w blocks"):
        older(compacts=True, restarts=False)


def test_two_histories_of_one_epoch_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_histories, "_EPOCH_STEPS", 1)
    monkeypatch.setattr(LogTable, "take_strangers", lambda *_: False)
    with pytest.raises(AssertionError, match="w blocks"):
        same(compacts=True, restarts=False)
