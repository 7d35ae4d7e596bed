"""Repositories of qcow2 images: all points read as the volume was, also after merges."""

from __future__ import annotations

from random import Random

import pytest
from plain_images import BackupWorld
from qcow2_points import SmallQcow2

from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.repository.check import check_volume
from mirrorlog.consumers.backup.repository.object_names import image_name
from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.repository.prune import prune_volume
from mirrorlog.consumers.backup.repository.repository_writer import DamagedSource, open_writer
from mirrorlog.simulation.memory_backups import MemoryBackups

FORMS = pytest.mark.parametrize(
    "images",
    [
        SmallQcow2(ImageLayout.SUBCLUSTERS),
        SmallQcow2(ImageLayout.CLUSTERS),
        SmallQcow2(ImageLayout.CLUSTERS, is_compressed=True),
    ],
    ids=["subclusters", "clusters", "compressed"],
)


@FORMS
def test_points_read_as_the_volume_was_and_are_pruned(images: SmallQcow2) -> None:
    world = BackupWorld(MemoryBackups(), images=images, random=Random(3), max_depth=4)
    for _ in range(9):
        world.write_some()
        world.backup()
    drop = set(list(world.points)[1:7:2])
    with open_writer(world.repository, "prune") as writer:
        prune_volume(writer, world.volume, drop)
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


@FORMS
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
