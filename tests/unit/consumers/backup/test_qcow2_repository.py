"""Repositories of qcow2 images: all points read as the volume was, also after merges."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from plain_images import BackupWorld
from qcow2_points import FORMS, SmallQcow2

from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.consumers.backup.repository.check import check_volume
from mirrorlog.consumers.backup.repository.object_names import (
    HEADER,
    image_name,
    manifest_object_name,
)
from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.repository.prune import prune_volume
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import DamagedSource, open_writer
from mirrorlog.errors import RepositoryFailed, StateDamaged
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_backups import MemoryBackups

EACH_FORM = pytest.mark.parametrize("images", FORMS.values(), ids=FORMS.keys())


@EACH_FORM
def test_points_read_as_the_volume_was_and_are_pruned(images: SmallQcow2) -> None:
    world = BackupWorld(MemoryBackups(), images=images, random=Random(3), max_depth=4)
    for _ in range(9):
        world.write_some()
        world.backup()
    drop = set(list(world.points)[1:7:2])
    world.prune(drop)
    for point in drop:
        del world.points[point]
    catalog = world.repository.catalog(world.volume)
    assert world.visible() == list(world.points)
    for point, content in world.points.items():
        with open_point(world.repository, catalog, point, reads_all=True) as device:
            assert device.size_bytes == len(content) * images.block
            assert images.versions(device.pread(offset=0, length=device.size_bytes)) == content
    checked = check_volume(world.repository, world.volume, read_data=True)
    assert (checked.damages, list(checked.sound)) == ((), list(world.points))


def test_a_prune_to_each_subset_keeps_its_points_byte_for_byte() -> None:
    store = MemoryBackups()
    world = BackupWorld(store, images=SmallQcow2(), random=Random(8))
    for _ in range(5):
        world.write_some()
        world.backup()
    *older, _ = world.points
    before = dict(store.objects)
    for number in range(2 ** len(older)):
        store.objects = dict(before)
        drop = {point for place, point in enumerate(older) if number >> place & 1}
        world.prune(drop)
        kept = {point: text for point, text in world.points.items() if point not in drop}
        world.check_points(kept)
        world.check_tidy(kept.keys())


@EACH_FORM
def test_a_flipped_byte_is_found_before_a_point_is_used(images: SmallQcow2) -> None:
    store = MemoryBackups()
    world = BackupWorld(store, images=images)
    world.write(*range(world.blocks))
    point = world.backup()
    name = image_name(world.volume, point, images.suffix)
    content = bytearray(store.objects[name])
    content[-1] ^= 1
    store.objects[name] = bytes(content)
    catalog = world.repository.catalog(world.volume)
    with (
        pytest.raises(DamagedSource, match=point),
        open_point(world.repository, catalog, point, reads_all=True),
    ):
        pass
    (damage,) = check_volume(world.repository, world.volume, read_data=True).damages
    assert damage.affected == (point,)


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("kind", ["manifest", "head", "tables", "data"])
def test_a_flipped_byte_in_each_kind_of_file_names_its_point_and_spares_others(kind: str) -> None:
    store, images = MemoryBackups(), SmallQcow2()
    world = BackupWorld(store, images=images)
    world.write(*range(world.blocks))
    points = [world.backup()]
    for block in (0, 8, 0):  # in two units of 4 KiB
        world.write(block)
        points.append(world.backup())
    damaged = points[1]
    name = image_name(world.volume, damaged, images.suffix)
    if kind == "manifest":
        name = manifest_object_name(world.volume, damaged, 1)
        at = 100
    else:
        image = world.repository.catalog(world.volume).point(damaged).manifest.image
        (part,) = (part for part in image.digests.parts if part.part == kind)
        content = store.objects[name][part.offset : part.offset + part.length]
        at = part.offset + next(place for place, byte in enumerate(content) if byte)
    store.objects[name] = _flipped(store.objects[name], at)
    checked = check_volume(world.repository, world.volume, read_data=True)
    assert {damage.point for damage in checked.damages} == {damaged}
    assert damaged in checked.affected
    assert {*checked.sound} == {*points} - {*checked.affected}
    assert points[0] in checked.sound
    if kind in ("manifest", "data"):  # of the data, the last point holds all that is damaged
        assert points[3] in checked.sound
    for point in checked.sound:
        assert world.reads_as(point) == world.points[point]


@pytest.mark.parametrize("is_pruned", [False, True])
def test_a_flipped_byte_of_a_folder_s_lock_and_header_is_harmless_or_named(
    is_pruned: bool, tmp_path: Path
) -> None:
    world = BackupWorld(FolderBackups(tmp_path), images=SmallQcow2())
    for _ in range(3):
        world.write_some()
        world.backup()
    lock = tmp_path / ".lock" / "lock"
    lock.write_bytes(_flipped(lock.read_bytes(), 0))
    world.backup()
    if is_pruned:
        world.prune(set())
    for point, content in world.points.items():
        assert world.reads_as(point) == content
    header = tmp_path / HEADER
    header.write_bytes(_flipped(header.read_bytes(), 20))
    with pytest.raises(StateDamaged, match=HEADER):
        Repository.open(FolderBackups(tmp_path), SmallQcow2())
    header.write_bytes(_flipped(header.read_bytes(), 20))
    assert world.visible() == list(world.points)


@pytest.mark.parametrize("step", ["create", "replace", "delete"])
def test_a_writer_whose_lease_ran_out_changes_nothing_more(step: str) -> None:
    clock = ManualClock(now_s=1e9)
    store = MemoryBackups(clock)
    world = BackupWorld(store, images=SmallQcow2())
    for _ in range(4):
        world.write_some()
        world.backup()
    changes: list[str] = []

    def lose(happened: str, name: str) -> None:
        if happened == step and not name.startswith("locks/") and not changes:
            clock.now_s += 1000
            changes.append(name)

    def count(happened: str, name: str) -> None:
        if changes and happened != "read" and not name.startswith("locks/"):
            changes.append(name)

    with open_writer(world.repository, "prune") as writer:
        store.before, store.after = count, lose
        with pytest.raises(RepositoryFailed, match="lock"):
            prune_volume(writer, world.volume, set(list(world.points)[1:3]))
        store.before = store.after = lambda happened, name: None
    assert len(changes) == 1, "the one after which the lease ran out"


def test_a_writer_whose_lease_ran_out_before_it_replaces_an_image_replaces_nothing() -> None:
    clock = ManualClock(now_s=1e9)
    store = MemoryBackups(clock)
    world = BackupWorld(store, images=SmallQcow2())
    for _ in range(4):
        world.write_some()
        world.backup()
    *_, kept = world.points
    replaced: list[str] = []
    lost: list[str] = []

    def lose(happened: str, name: str) -> None:
        if happened == "delete" and name == manifest_object_name(world.volume, kept, 1):
            clock.now_s += 1000
            lost.append(name)
        if happened == "replace":
            replaced.append(name)

    with open_writer(world.repository, "prune") as writer:
        store.after = lose
        with pytest.raises(RepositoryFailed, match="lock"):
            prune_volume(writer, world.volume, set(list(world.points)[1:3]))
        store.after = lambda happened, name: None
    assert (len(lost), replaced) == (1, [])
