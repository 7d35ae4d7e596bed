"""`archive verify`: one flipped bit anywhere, a lost or a foreign file, each is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from archiving import ArchiveWorld, described

from mirrorlog.archive.archive import Archive
from mirrorlog.archive.manifests import decode_manifest, digest_of, encode_manifest
from mirrorlog.archive.merges import RowMerge, decode_merge, encode_merge
from mirrorlog.consumers.archive.row_files import RowFiles
from mirrorlog.consumers.archive.row_merger import RowMerger
from mirrorlog.consumers.archive.verify import CheckedPartition, verify_archive
from mirrorlog.errors import DifferenceFound


def _world() -> ArchiveWorld:
    world = ArchiveWorld()
    for _ in range(2):
        for number in range(8):
            world.write("v", [(number * 4096, 4096)])
        world.record()
        world.archiver(make_rows=RowFiles({"v": described("v")}), range_bytes=500).run_partition(0)
    RowMerger(Archive(world.store), ranges=2, file_rows=4, group_rows=2).merge_partition(0)
    assert len([name for name in world.store.objects if name.startswith("merges/")]) == 2
    return world


_CHAINS = ("manifests/", "merges/")


def _verify(world: ArchiveWorld) -> list[CheckedPartition]:
    return list(verify_archive(Archive(world.store)))


def test_a_whole_archive_is_counted() -> None:
    (checked,) = _verify(_world())
    assert (checked.commands, checked.rows, checked.through) == (16, 16, 15)
    assert (checked.holes, checked.superseded, checked.histories) == ([], 0, 1)


def test_one_flipped_bit_anywhere_is_named_by_its_object() -> None:
    world, random = _world(), Random(1)
    for name in list(world.store.objects):
        content = world.store.objects[name]
        for bit in [0, 8 * len(content) - 1, random.randrange(8 * len(content))]:
            world.store.flip_bit(name, bit)
            with pytest.raises(DifferenceFound) as caught:
                _verify(world)
            assert name in caught.value.where
            world.store.objects[name] = content
    _verify(world)


def test_one_object_that_is_missing_is_named_by_position() -> None:
    world = _world()
    names = list(world.store.objects)
    # The archive, or its merges, end earlier then: only Kafka, or a checkpoint, shows that.
    last = [max(name for name in names if name.startswith(kind)) for kind in _CHAINS]
    for name in names:
        if name in last:
            continue
        content = world.store.objects.pop(name)
        with pytest.raises(DifferenceFound, match="position"):
            _verify(world)
        world.store.objects[name] = content


def test_a_manifest_that_was_written_again_breaks_the_chain_behind_it() -> None:
    world = _world()
    name = min(name for name in world.store.objects if name.startswith("manifests/"))
    manifest = decode_manifest(world.store.objects[name], name)
    world.store.objects[name] = encode_manifest(replace(manifest, written_by="somebody else"))
    with pytest.raises(DifferenceFound, match="was replaced"):
        _verify(world)


def test_a_file_that_repeats_a_message_is_found_behind_valid_checksums() -> None:
    world = ArchiveWorld()
    for _ in range(3):
        world.write("v")
    world.record()
    world.archiver().run_partition(0)
    (manifest_name,) = [name for name in world.store.objects if name.startswith("manifests/")]
    manifest = decode_manifest(world.store.objects[manifest_name], manifest_name)
    from mirrorlog.archive.command_files import encode_commands

    messages = world.broker.messages(world.topics.commands)
    content = encode_commands([messages[0], messages[1], messages[1], messages[2]])
    file = replace(manifest.files[0], size_bytes=len(content), sha256=digest_of(content), rows=4)
    world.store.objects[file.name] = content
    world.store.objects[manifest_name] = encode_manifest(replace(manifest, files=(file,)))
    with pytest.raises(DifferenceFound, match="position 1 is there twice"):
        _verify(world)


def _change_merge(world: ArchiveWorld, change: Callable[[RowMerge], RowMerge]) -> None:
    name = min(name for name in world.store.objects if name.startswith("merges/"))
    merge = decode_merge(world.store.objects[name], name)
    world.store.objects[name] = encode_merge(change(merge))


def test_a_merge_of_other_manifests_is_found_behind_valid_checksums() -> None:
    world = _world()
    _change_merge(world, lambda merge: replace(merge, last_manifest_sha256="0" * 64))
    with pytest.raises(DifferenceFound, match="names another manifest"):
        _verify(world)


def test_a_merge_that_lacks_a_file_is_found_behind_valid_checksums() -> None:
    world = _world()
    _change_merge(world, lambda merge: replace(merge, files=merge.files[1:]))
    with pytest.raises(DifferenceFound, match="other rows than the files"):
        _verify(world)


def test_an_entry_with_other_offsets_is_found_behind_valid_checksums() -> None:
    world = _world()

    def shift(merge: RowMerge) -> RowMerge:
        first = replace(merge.files[0], first_offset=512)
        return replace(merge, files=(first, *merge.files[1:]))

    _change_merge(world, shift)
    with pytest.raises(DifferenceFound, match="aren't those of its entry"):
        _verify(world)
