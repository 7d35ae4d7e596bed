"""A replay killed at any step and started again leaves the same volumes as one without a crash."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import notation
import pytest
from clocks import Crashed

from mirrorlog.errors import BadUse, StateDamaged
from mirrorlog.producers.replay.contents import fill
from mirrorlog.producers.replay.replay import (
    CHECKPOINT_NAME,
    Pace,
    Replay,
    ReplayProgress,
    ReplayResult,
)
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.traces import RequestKind, TracedRequest
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder

SIZE = 32 << 10
SETTINGS = Settings(region_bytes=4096, hot_regions=3, host_batch_extents=4)


class World:
    """A host with the volumes a and b, and a replay that can crash at any step."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.clock = ManualClock(look_s=0.002)
        self.folder = MemoryFolder()
        self.broker = MemoryBroker()
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        self.devices = MemoryDevices()
        self.volumes = {
            name: notation.volume(name, SIZE, generation="g", primary=f"memory://{name}")
            for name in ("a", "b")
        }
        for volume in self.volumes.values():
            self.devices.create(volume.primary, SIZE)
        self.steps = 0

    def run(
        self,
        requests: list[TracedRequest],
        crash_at: int | None = None,
        trace: str = "trace",
        stop: Callable[[], bool] = lambda: False,
        speed: float | None = None,
        progress: Callable[[ReplayProgress], None] = lambda _: None,
    ) -> ReplayResult:
        self.steps = 0

        def step(*_: object) -> None:
            self.steps += 1
            if crash_at is not None and self.steps >= crash_at:
                raise Crashed

        publisher = self.broker.publisher()
        poll, publish = publisher.poll, publisher.publish

        def polled(timeout_s: float) -> None:
            step()
            self.clock.now_s += timeout_s
            poll(timeout_s)

        publisher.poll = polled  # type: ignore[method-assign]
        publisher.publish = (  # type: ignore[method-assign]
            lambda *arguments: (step(), publish(*arguments))[1]
        )
        self.folder.hook = step
        for device in self.devices.devices.values():
            device.hook = step
        ports = HostPorts(self.folder, publisher, self.clock, self.devices)
        host = Host("h", ports, SETTINGS, self.volumes)
        volumes = host.open_all(
            OpenRequest(volume, self.devices(volume.primary, writable=True), newly_created=True)
            for volume in self.volumes.values()
        )
        replay = Replay(
            host,
            trace,
            iter(requests),
            volumes,
            self.folder,
            self.clock,
            pace=Pace(speed=speed, checkpoint_requests=5),
            stop=stop,
        )
        result = replay.run(progress)
        host.close()
        return result

    def crash(self, power: bool) -> None:
        if power:
            self.folder.crash(self.random)
            for device in self.devices.devices.values():
                device.crash(self.random)
        else:
            self.folder.kill()

    def contents(self) -> dict[str, bytes]:
        for device in self.devices.devices.values():
            device.hook = None
        return {
            name: self.devices(v.primary, writable=False).pread(offset=0, length=SIZE)
            for name, v in self.volumes.items()
        }


def requested(seed: int) -> list[TracedRequest]:
    random = Random(seed)
    kinds = random.choices(list(RequestKind), (0, 70, 8, 8, 14), k=30)
    requests = []
    for number, kind in enumerate(kinds):
        offset = random.randrange(SIZE - 1)
        length = random.randint(1, min(6000, SIZE - offset))
        if kind is RequestKind.FLUSH:
            offset = length = 0
        requests.append(TracedRequest(random.choice("ab"), kind, offset, length, number * 1000))
    return requests


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("seed", range(2))
def test_an_interrupted_replay_ends_like_an_uninterrupted_one(seed: int, power: bool) -> None:
    undisturbed = World(seed)
    requests = requested(seed)
    result = undisturbed.run(requests)
    contents, steps = undisturbed.contents(), undisturbed.steps
    for crash_at in range(1, steps + 1):
        world = World(seed)
        with pytest.raises(Crashed):
            world.run(requests, crash_at)
        world.crash(power)
        again = world.run(requests)
        assert world.contents() == contents, f"crash at step {crash_at} of {steps}"
        assert (again.writes, again.bytes_written) == (result.writes, result.bytes_written)


def test_the_nth_write_has_version_n() -> None:
    world = World()
    write = RequestKind.WRITE
    requests = [
        TracedRequest("a", write, 10, 700, 0),
        TracedRequest("a", RequestKind.FLUSH, 0, 0, 1),
    ]
    result = world.run([*requests, TracedRequest("b", write, 3, 700, 2)])
    assert world.contents()["a"][10:710] == fill("a", offset=10, length=700, version=1)
    assert world.contents()["b"][3:703] == fill("b", offset=3, length=700, version=2)
    assert (result.writes, result.bytes_written, result.extents, result.finished) == (
        2,
        1400,
        2,
        True,
    )
    assert result.last_positions.keys() == {"a", "b"}


def test_a_stopped_replay_continues_where_it_was() -> None:
    requests, calls = requested(0), iter([False] * 6 + [True])
    world, whole = World(), World()
    assert not world.run(requests, stop=lambda: next(calls)).finished
    seen: list[ReplayProgress] = []
    result = world.run(requests, progress=seen.append)
    assert (seen[0].requests, seen[-1].requests, result.finished) == (8, 30, True)
    whole.run(requests)
    assert world.contents() == whole.contents()


def test_a_checkpoint_that_is_damaged_or_belongs_to_another_trace_is_refused() -> None:
    world = World()
    world.run(requested(0))
    with pytest.raises(BadUse, match="belongs to the trace trace, not to other"):
        world.run(requested(0), trace="other")
    world.folder.kill()
    world.folder.damage(
        CHECKPOINT_NAME, lambda content: content.replace(b'"writes": ', b'"writes": 1')
    )
    with pytest.raises(StateDamaged, match="Remove it"):
        world.run(requested(0))


def test_a_request_for_a_volume_that_is_not_open_is_refused() -> None:
    with pytest.raises(BadUse, match="volume c"):
        World().run([TracedRequest("c", RequestKind.WRITE, 0, 1, 0)])


@pytest.mark.parametrize(
    ("speed", "least_s", "most_s"), [(None, 0.0, 0.3), (1.0, 3.0, 3.3), (2.0, 1.5, 1.8)]
)
def test_a_replay_keeps_the_pace_of_the_recording(
    speed: float | None, least_s: float, most_s: float
) -> None:
    """The recording spans three seconds, and its times go back once."""
    world = World()
    times = (5_000_000, 6_000_000, 5_500_000, 8_000_000)
    world.run(
        [TracedRequest("a", RequestKind.WRITE, 0, 1, time_us) for time_us in times], speed=speed
    )
    assert least_s <= world.clock.now_s <= most_s
