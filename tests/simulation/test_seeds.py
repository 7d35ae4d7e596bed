"""A seed is compared with its primary: what differs is written, and nothing is claimed before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from site_kills import Killer, follow, unfinished

from mirrorlog.consumers.state.pauses import Pauses
from mirrorlog.consumers.verify.asked_digests import AskedDigests
from mirrorlog.consumers.verify.digest_server import DigestServer, PrimaryDigests
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.ports.streams import Message
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryReader
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.world.crashes import Crash
from mirrorlog.simulation.world.host import BLOCK_BYTES, BLOCKS, SIZE_BYTES
from mirrorlog.simulation.world.world import World

STEPS = 150
DAMAGED = (3, BLOCKS - 1)
"""Blocks of each seed that hold what no primary ever held."""


def world_with_seeds(seed: int, **overrides: object) -> World:
    """Return a world in which each secondary is an old copy of its primary, partly damaged.

    The site knows nothing of them. The host has written since they were made.
    """
    world = World(seed, **{"site_seeds": ("*",), "site_chunk_bytes": 4096, **overrides})
    world.site.look_at_pauses = lambda: Pauses(is_all=True)
    for number in range(150):
        world.act()
        if number == 100:
            for name, primary in world.host.primaries.items():
                device = world.site.secondary(name)
                device.pwrite(0, primary.pread(offset=0, length=SIZE_BYTES))
                for block in DAMAGED:
                    device.pwrite(block * BLOCK_BYTES, b"\xaa" * BLOCK_BYTES)
                device.flush()
    world.site.crash()
    world.host.heartbeat()
    world.fold_and_commit()
    world.site.look_at_pauses = Pauses
    return world


class ServedReader(MemoryReader):
    """A reader of digests whose questions are answered whenever it is polled."""

    def __init__(self, world: World) -> None:
        super().__init__(world.broker)
        primaries = world.host.primaries
        self._server = DigestServer(
            PrimaryDigests(
                by="host",
                volumes=frozenset(world.volumes),
                open_primary=lambda name: Unhooked.of(primaries[name]),
            ),
            reader=world.broker.reader(),
            admin=world.broker,
            publisher=world.broker.publisher(),
            topic=world.settings.topics.digests,
            answer_topic=world.settings.topics.digests,
        )

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        """Answer what was asked, then return the messages."""
        self._server.serve(0)
        return super().poll(timeout_s, max_messages=max_messages)


class Unhooked(MemoryDevice):
    """A handle that a process beside the primary uses: the site isn't said to read by it."""

    @classmethod
    def of(cls, device: MemoryDevice) -> MemoryDevice:
        hook, device.hook = device.hook, None
        copy = MemoryDevice(device.size_bytes)
        copy.pwrite(0, device.pread(offset=0, length=device.size_bytes))
        device.hook = hook
        return copy


def ask_the_host(world: World) -> None:
    """Let a process beside the primaries compute digests for the site."""
    world.site.digests = AskedDigests(
        site=world.site.name,
        reader=ServedReader(world),
        admin=world.broker,
        publisher=world.broker.publisher(),
        topic=world.settings.topics.digests,
        clock=ManualClock(look_s=0.1),
    )
    world.site.start()


def differing_blocks(world: World, name: str) -> set[int]:
    """Return the blocks in which secondary and primary differ."""
    secondary, primary = world.site.secondary(name), world.host.primaries[name]
    return {
        block
        for block in range(BLOCKS)
        if secondary.pread(offset=block * BLOCK_BYTES, length=BLOCK_BYTES)
        != primary.pread(offset=block * BLOCK_BYTES, length=BLOCK_BYTES)
    }


@pytest.mark.parametrize("by_digests", [False, True])
@pytest.mark.parametrize("overrides", [{}, {"site_seeds": (), "site_checksum": True}])
def test_of_a_seed_only_what_differs_is_written(
    overrides: dict[str, object], by_digests: bool
) -> None:
    world = world_with_seeds(3, **overrides)
    world.hold_primaries_still()
    if by_digests:
        ask_the_host(world)
    read = dict.fromkeys(world.volumes, 0)
    for name, primary in world.host.primaries.items():

        def count(operation: str, _offset: int, length: int, name: str = name) -> None:
            read[name] += length if operation == "pread" else 0

        primary.hook = count
    differing = {name: differing_blocks(world, name) for name in world.volumes}
    written: dict[str, set[int]] = {name: set() for name in world.volumes}
    for name, device in world.site.secondaries.devices.items():

        def hook(operation: str, offset: int, length: int, name: str = name) -> None:
            if operation in ("pwrite", "zero"):
                blocks = range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES))
                written[name] |= set(blocks)

        device.hook = hook
    read.update(dict.fromkeys(read, 0))
    follow(world)
    assert written == differing
    for name, secondary in world.site.site.secondaries.items():
        assert set(DAMAGED) <= differing[name] != set(range(BLOCKS))
        assert secondary.counts.compared_bytes > secondary.counts.equal_bytes > 0
        assert secondary.counts.blocks == len(differing[name])
        assert read[name] == secondary.counts.read_bytes
        assert (read[name] < secondary.counts.compared_bytes) is by_digests
        assert world.site.secondary_equals_primary(name)


@pytest.mark.parametrize("by_digests", [False, True])
def test_a_seed_is_adopted_although_the_site_dies_at_any_step(by_digests: bool) -> None:
    resumed = 0
    for steps in range(1 + by_digests, STEPS, 15):
        world = world_with_seeds(int(by_digests))
        if by_digests:
            ask_the_host(world)
        killer = Killer(world, steps)
        try:
            for _ in range(8):
                world.site.site.run_once(0)
                world.site.check_claims()
        except Crash:
            world.site.crash()
        world.site.check_consistency()
        resumed += len(unfinished(world))
        killer.steps_left = 10**9
        for name in world.volumes:
            world.host.write_block(name, 1)
        follow(world)
        for name, secondary in world.site.site.secondaries.items():
            assert secondary.state is SiteState.CONSISTENT
            assert world.site.secondary_equals_primary(name)
    assert resumed


def test_a_seed_that_is_missing_is_never_created() -> None:
    world = world_with_seeds(1, site_seeds=("v",))
    for name in ("u", "v"):
        del world.site.secondaries.devices[name]
        world.site.secondaries.restore_mark(name, None)
        world.site.states.restore(name, None)
    world.site.start()
    follow_others(world)
    secondaries = world.site.site.secondaries
    assert "v" not in world.site.secondaries.devices
    assert secondaries["v"].state is SiteState.STOPPED
    assert "no seed" in (secondaries["v"].status.reason or "")
    assert secondaries["u"].state is secondaries["w"].state is SiteState.CONSISTENT


def test_a_site_whose_host_computes_no_digests_stops_that_volume_and_asks_once_a_minute() -> None:
    world = world_with_seeds(1, site_seeds=("v",))
    digests = world.settings.topics.digests
    world.site.digests = AskedDigests(
        site=world.site.name,
        reader=world.broker.reader(),
        admin=world.broker,
        publisher=world.broker.publisher(),
        topic=digests,
        clock=ManualClock(look_s=1),
    )
    world.site.start()
    follow_others(world)
    secondaries = world.site.site.secondaries
    assert secondaries["v"].state is SiteState.STOPPED
    assert "no answer" in (secondaries["v"].status.reason or "")
    assert secondaries["u"].state is secondaries["w"].state is SiteState.CONSISTENT
    asked = world.broker.end_position(digests, 0)
    follow_others(world)
    assert world.broker.end_position(digests, 0) == asked
    ask_the_host(world)
    follow(world)
    assert world.site.secondary_equals_primary("v")


def follow_others(world: World) -> None:
    """Let host, node and site go on, although a secondary is stopped."""
    for _ in range(24):
        world.host.heartbeat()
        world.fold_and_commit()
        world.site.site.run_once(0)
        world.site.check_claims()
