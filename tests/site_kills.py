"""Kills the site of a simulated world in the middle of a copy, and lets it go on."""

from __future__ import annotations

from collections.abc import Callable

from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.simulation.world.crashes import Crash
from mirrorlog.simulation.world.world import World


class Killer:
    """Kills the site at one step, and notes what is read of primaries.

    on_read: called with the volume before each read of a primary.
    """

    def __init__(self, world: World, steps: int) -> None:
        self.steps_left = steps
        self.on_read: Callable[[str], None] = lambda _: None
        self.reads: list[tuple[str, int]] = []
        site = world.site
        site.secondaries.hook = site.states.hook = self.step
        for device in site.secondaries.devices.values():
            device.hook = self.step
        for name, primary in world.host.primaries.items():

            def hook(operation: str, offset: int, length: int, name: str = name) -> None:
                if operation == "pread":
                    self.on_read(name)
                    self.reads.append((name, offset))
                self.step(operation, offset, length)

            primary.hook = hook

    def step(self, *_: object) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            raise Crash


def unfinished(world: World) -> dict[str, SecondaryState]:
    """Return the saved states of copies that have a part that is done."""
    states = {name: world.site.states.load(name) for name in world.volumes}
    return {name: state for name, state in states.items() if state and state.copied_bytes}


def follow(world: World) -> None:
    """Let host, node and site go on until all is consistent."""
    for _ in range(24):
        world.host.heartbeat()
        world.fold_and_commit()
        world.site.site.run_once(0)
        world.site.check_claims()
    world.settle()
