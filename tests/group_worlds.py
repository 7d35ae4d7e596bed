"""Worlds in which two volumes are a consistency group."""

from __future__ import annotations

from dataclasses import replace

from mirrorlog.simulation.world.world import World

MEMBERS = ("u", "v")
CRASH = {"site_consistency": "crash", "site_journal_bytes": 1 << 20, "site_snapshot_s": 0}


def group_world(seed: int, *, has_snapshots: bool = True, **settings: object) -> World:
    """Return a world whose volumes u and v are a group."""
    world = World(seed, **{**CRASH, **settings})
    world.fold_and_commit()
    for name in MEMBERS:
        world.publish_volume(replace(world.described(name), group="db"))
    if has_snapshots:
        world.use_snapshots()
    return world


def saved_point(world: World) -> str | None:
    """Return the common point at which the running site has saved all members."""
    secondaries = [world.site.site.secondaries.get(name) for name in MEMBERS]
    saved = [None if secondary is None else secondary.saved for secondary in secondaries]
    ids = {None if state is None else state.common_point_id for state in saved}
    return ids.pop() if len(ids) == 1 else None


def run_to_point(world: World) -> None:
    """Let node and site run until the group is at a common point that holds all writes."""
    for _ in range(100):
        run_rounds(world, 1)
        if saved_point(world) is not None and all(
            world.site.secondary_equals_primary(name) for name in MEMBERS
        ):
            return
    raise AssertionError(f"no common point: {world.site.site.secondaries['u'].status}")


def run_rounds(world: World, count: int) -> None:
    """Let site, host and node work in turns."""
    for _ in range(count):
        world.site.site.run_once(0)
        world.host.heartbeat()
        world.fold_and_commit()


def write_both(world: World) -> None:
    """Write to v and then to u, in turns."""
    for block in (3, 4, 9):
        for name in ("v", "u"):
            world.host.write_block(name, block)
    world.host.publish_all()
    world.fold_and_commit()


def ready_world(*, has_snapshots: bool = True, **settings: object) -> World:
    """Return a world whose group is at a common point, and was written to since."""
    world = group_world(3, has_snapshots=False, **settings)
    world.hold_primaries_still()
    if has_snapshots:
        world.use_snapshots(always=True)
    run_to_point(world)
    write_both(world)
    return world
