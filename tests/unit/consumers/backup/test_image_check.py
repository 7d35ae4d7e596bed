"""A flipped byte is found in each part of an image, and named with what of the volume is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from backup_images import ImageChain, random_chain

from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.qcow2.image_check import ImageDamage, ImagePart, check_image
from mirrorlog.consumers.backup.qcow2.image_map import open_map
from mirrorlog.consumers.backup.qcow2.mapped_runs import RunKind
from mirrorlog.consumers.backup.qcow2.zstd_clusters import frame_place
from mirrorlog.consumers.backup.repository.qcow2_files import file_digests, image_digests
from mirrorlog.errors import StateDamaged


@pytest.fixture(params=[*ImageLayout, "compressed"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> ImageChain:
    is_compressed = request.param == "compressed"
    layout = ImageLayout.CLUSTERS if is_compressed else request.param
    return random_chain(tmp_path, layout, points=2, is_compressed=is_compressed)


def check(chain: ImageChain, *, read_data: bool = True) -> list[ImageDamage]:
    return check_image(
        chain.paths[0],
        chain.written[0].digests,
        size_bytes=len(chain.contents[0]),
        read_data=read_data,
    )


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        octet = os.pread(file.fileno(), 1, offset)[0]
        os.pwrite(file.fileno(), bytes([octet ^ 0x10]), offset)


def parts(damages: list[ImageDamage]) -> list[ImagePart]:
    return [damage.part for damage in damages]


def test_a_written_image_is_sound(chain: ImageChain) -> None:
    assert check(chain) == []


def test_a_flipped_byte_of_the_head_takes_the_whole_point(chain: ImageChain) -> None:
    header = open_map(chain.paths[0]).header
    for offset in (3, 30, 70, header.l1_offset + 1, header.refcount_table_offset + 2):
        flip(chain.paths[0], offset)
        (damage,) = check(chain, read_data=False)
        assert damage.part is ImagePart.HEAD
        assert damage.guest_ranges == ((0, len(chain.contents[0])),)
        flip(chain.paths[0], offset)
    assert check(chain) == []


def test_a_flipped_byte_of_a_refcount_is_found(chain: ImageChain) -> None:
    header = open_map(chain.paths[0]).header
    block = header.refcount_table_offset + header.layout.cluster_bytes
    flip(chain.paths[0], block + 1)
    assert parts(check(chain, read_data=False)) == [ImagePart.HEAD]


def test_a_flipped_byte_of_a_table_names_what_the_table_maps(chain: ImageChain) -> None:
    image = open_map(chain.paths[0])
    table = int(image.l2_offsets.nonzero()[0][-1])
    flip(chain.paths[0], int(image.l2_offsets[table]) + 5)
    (damage,) = check(chain, read_data=False)
    layout = image.header.layout
    mapped = layout.table_entries * layout.cluster_bytes
    lost = [(first, first + length) for first, length in damage.guest_ranges]
    assert damage.part is ImagePart.TABLES
    assert any(
        first <= table * mapped < min((table + 1) * mapped, image.header.size_bytes) <= end
        for first, end in lost
    )


def test_a_flipped_byte_of_data_names_its_range_and_leaves_others_right(
    chain: ImageChain,
) -> None:
    image = open_map(chain.paths[0])
    run = int((image.runs.kinds == 1).nonzero()[0][0])
    flip(chain.paths[0], int(image.runs.places[run]) + 7)
    assert check(chain, read_data=False) == []
    (damage,) = check(chain)
    assert damage.part is ImagePart.DATA
    lost = bytearray(len(chain.contents[0]))
    for first, length in damage.guest_ranges:
        lost[first : first + length] = b"\1" * length
    assert lost[int(image.runs.starts[run]) + 7]
    with ChainReader(chain.paths) as reader:
        actual = reader.pread(offset=0, length=reader.size_bytes)
    for at, (one, other) in enumerate(zip(actual, chain.contents[0], strict=True)):
        assert one == other or lost[at]


def test_damage_in_one_piece_of_data_leaves_the_others(tmp_path: Path) -> None:
    chain = ImageChain(tmp_path, ImageLayout.SUBCLUSTERS, 4096)
    chain.resize(12 << 20)
    for block in range(3 << 10):
        chain.write(block, 1)
    chain.take_point()
    start = chain.written[0].digests.data_offset
    flip(chain.paths[0], start + (5 << 20))
    (damage,) = check(chain)
    assert (damage.offset, damage.length) == (start + (4 << 20), 4 << 20)
    assert damage.guest_ranges == ((4 << 20, 4 << 20),)


def test_a_file_that_was_cut_off_is_damaged_behind_its_end(chain: ImageChain) -> None:
    os.truncate(chain.paths[0], chain.written[0].digests.data_offset)
    damages = check(chain)
    assert set(parts(damages)) == {ImagePart.DATA}
    os.truncate(chain.paths[0], 100)
    assert parts(check(chain))[0] is ImagePart.HEAD


def test_a_longer_file_is_found(chain: ImageChain) -> None:
    with chain.paths[0].open("ab") as file:
        file.write(b"more")
    (damage,) = check(chain)
    assert (damage.length, damage.guest_ranges) == (4, ())


def test_digests_are_kept_without_loss(chain: ImageChain) -> None:
    digests = chain.written[0].digests
    assert image_digests(file_digests(digests), "image") == digests


def test_a_flipped_byte_of_a_compressed_cluster_is_named_and_never_read_as_data(
    tmp_path: Path,
) -> None:
    chain = random_chain(tmp_path, ImageLayout.CLUSTERS, points=1, is_compressed=True)
    runs = open_map(chain.paths[0]).runs
    run = int((runs.kinds == RunKind.COMPRESSED).nonzero()[0][0])
    flip(chain.paths[0], int(frame_place(runs.places[run : run + 1])[0][0]))
    (damage,) = check(chain)
    start = int(runs.starts[run])
    assert any(first <= start < first + length for first, length in damage.guest_ranges)
    with ChainReader(chain.paths) as reader, pytest.raises(StateDamaged, match="compressed"):
        reader.pread(offset=start, length=1)
