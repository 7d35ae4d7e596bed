"""Merging any neighbours of a chain leaves every other point as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path
from uuid import uuid4

import pytest
from backup_images import ImageChain, random_chain
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.qcow2.merging import merge_images
from mirrorlog.errors import BadUse

BLOCKS = st.integers(0, 299)
POINTS = st.lists(
    st.tuples(
        st.integers(1, 2400),
        st.lists(st.tuples(st.booleans(), BLOCKS, st.integers(1, 60)), max_size=6),
    ),
    min_size=2,
    max_size=5,
)
LAYOUTS = st.sampled_from(list(ImageLayout))


@settings(deadline=None, max_examples=40)
@given(
    layout=LAYOUTS,
    points=POINTS,
    newest=st.integers(0, 4),
    count=st.integers(2, 5),
    gives_below=st.booleans(),
)
def test_points_read_the_same_after_a_merge(
    layout: ImageLayout,
    points: list[tuple[int, list[tuple[bool, int, int]]]],
    newest: int,
    count: int,
    gives_below: bool,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        chain = ImageChain(Path(name), layout, 4096)
        for number, (sectors, writes) in enumerate(points):
            chain.resize(sectors * 512)
            for is_zero, first, length in writes:
                for block in range(first, first + length):
                    if is_zero:
                        chain.zero(block)
                    else:
                        chain.write(block, number * 1000 + block)
            chain.take_point()
        newest %= len(chain.paths) - 1
        merged = chain.paths[newest : newest + count]
        below = chain.paths[newest + count :]
        out = chain.folder / "merged.new"
        reader = ChainReader(below) if below and gives_below else None
        try:
            merge_images(merged, out, image_id=uuid4(), below=reader)
        except BadUse as error:
            assert below and not gives_below and "4 KiB" in error.what
            return
        finally:
            if reader is not None:
                reader.close()
        out.rename(merged[0])
        for path in merged[1:]:
            path.unlink()
        rest = [path for path in chain.paths if path not in merged[1:]]
        for path, content in zip(chain.paths, chain.contents, strict=True):
            if path in rest:
                with ChainReader(rest[rest.index(path) :]) as point:
                    assert point.pread(offset=0, length=point.size_bytes) == content


@pytest.mark.parametrize(
    ("layout", "is_compressed"),
    [(ImageLayout.SUBCLUSTERS, False), (ImageLayout.CLUSTERS, False), (ImageLayout.CLUSTERS, True)],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_any_neighbours_of_a_long_chain_merge(
    layout: ImageLayout, is_compressed: bool, seed: int, tmp_path: Path
) -> None:
    """The volume grows and shrinks, and what is zeroed lay below, in nearly every point."""
    chain = random_chain(tmp_path, layout, points=6, seed=seed, is_compressed=is_compressed)
    for newest in range(5):
        for count in (2, 3):
            merged, below = chain.paths[newest : newest + count], chain.paths[newest + count :]
            out = tmp_path / f"{newest}-{count}"
            if below:
                with ChainReader(below) as reader:
                    merge_images(merged, out, image_id=uuid4(), below=reader)
            else:
                merge_images(merged, out, image_id=uuid4())
            with ChainReader([out, *below]) as point:
                content = point.pread(offset=0, length=point.size_bytes)
            assert content == chain.contents[newest]


@pytest.mark.parametrize("layout", list(ImageLayout))
@pytest.mark.parametrize("gives_below", [False, True])
def test_zeros_over_data_and_data_over_zeros(
    layout: ImageLayout, gives_below: bool, tmp_path: Path
) -> None:
    chain = ImageChain(tmp_path, layout, 4096)
    chain.resize(1 << 20)
    for block in range(256):
        chain.write(block, block)
    chain.take_point()
    for block in (*range(5), *range(60, 100)):
        chain.zero(block)
    chain.write(7, 1)
    chain.take_point()
    chain.zero(7)
    chain.write(3, 1)
    chain.write(64, 1)
    chain.take_point()
    out, below = tmp_path / "out", chain.paths[2:]
    with ChainReader(below) as reader:
        merge_images(chain.paths[:2], out, image_id=uuid4(), below=reader if gives_below else None)
    with ChainReader([out, *below]) as point:
        assert point.pread(offset=0, length=point.size_bytes) == chain.contents[0]


def test_a_full_from_all_images_stands_alone(tmp_path: Path) -> None:
    chain = ImageChain(tmp_path, ImageLayout.SUBCLUSTERS, 4096)
    for point in range(4):
        chain.resize((point + 1) << 20)
        for block in range(point * 3, 256 * (point + 1), 7):
            chain.write(block, point)
        chain.zero(point)
        chain.take_point()
    out = tmp_path / "full"
    merge_images(chain.paths, out, image_id=uuid4(), layout=ImageLayout.CLUSTERS)
    for path in chain.paths:
        path.unlink()
    with ChainReader([out]) as point:
        assert point.pread(offset=0, length=point.size_bytes) == chain.contents[0]
        assert point.maps[0].header.backing is None
        assert not (point.runs.kinds == 2).any()


def test_a_merge_without_the_point_below_is_refused_only_where_it_is_needed(
    tmp_path: Path,
) -> None:
    chain = ImageChain(tmp_path, ImageLayout.CLUSTERS, 4096)
    chain.resize(8192)
    chain.write(0, 1)
    chain.take_point()
    chain.resize(512)
    chain.take_point()
    chain.resize(8192)
    chain.take_point()
    with pytest.raises(BadUse, match="4 KiB"):
        merge_images(chain.paths[:2], tmp_path / "out", image_id=uuid4())
