"""An archive's manifests are read once, and forgotten when nobody asks for them any more."""

from __future__ import annotations

from archiving import ArchiveWorld

from mirrorlog.archive.archive import Archive

RANGES = 6


def test_manifests_that_nobody_asks_for_are_forgotten_and_the_others_are_read_once() -> None:
    world = ArchiveWorld()
    for _ in range(RANGES):
        world.write()
        world.record()
        world.archiver().run_partition(0)
    read: list[str] = []
    world.store.before = lambda step, name: read.append(name) if step == "read" else None
    archive = Archive(world.store)
    assert len(archive.chains(0)[0].stored) == RANGES
    assert len(read) == RANGES
    last = archive.chains(0)[0].last.through
    for _ in range(3):
        archive.forget_unasked()
        assert len(archive.chains(0, above=last)[0].stored) == 1
    assert len(read) == RANGES
    assert len(archive.chains(0)[0].stored) == RANGES
    assert len(read) == 2 * RANGES - 1, "all but the last were forgotten"
