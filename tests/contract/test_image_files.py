"""What every format of images does: the port ImageFiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest
from plain_images import TinyImages, WritableImages
from qcow2_points import FORMS

from mirrorlog.consumers.backup.repository.image_files import (
    IDENTIFYING_BYTES,
    ImageFacts,
    LendsBelow,
)
from mirrorlog.errors import StateDamaged

FORMATS: dict[str, WritableImages] = {"tiny": TinyImages(), **FORMS}
ENDLESS = 1 << 60


@dataclass
class Chain:
    """Images of a volume that stand on each other, the newest first in all lists."""

    images: WritableImages
    folder: Path
    paths: list[Path] = field(default_factory=list)
    facts: list[ImageFacts] = field(default_factory=list)
    contents: list[list[int]] = field(default_factory=list)

    def add(self, content: Sequence[int], blocks: set[int]) -> None:
        point = f"20260101T0000{len(self.paths):02d}Z-00000000"
        path = self.folder / f"{point}{self.images.suffix}"
        base = self.points[0] if self.paths else None
        facts = self.images.write(path, content, blocks, base=base, image_id=str(uuid4()))
        self.paths.insert(0, path)
        self.facts.insert(0, facts)
        self.contents.insert(0, list(content))

    @property
    def points(self) -> list[str]:
        return [path.name.removesuffix(self.images.suffix) for path in self.paths]

    def size_bytes(self, number: int) -> int:
        return len(self.contents[number]) * self.images.block


@pytest.fixture(params=sorted(FORMATS))
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    return Chain(FORMATS[request.param], tmp_path)


def _random_chain(chain: Chain, seed: int) -> Chain:
    """Return points of a volume that is written to, zeroed, cut and extended."""
    random = Random(seed)
    content: list[int] = []
    for number in range(random.randrange(2, 6)):
        size = random.choice([len(content) or 60, random.randrange(1, 200)])
        shared = min(size, len(content))
        content = [*content[:size], *[0] * (size - len(content))]
        blocks = {random.randrange(size) for _ in range(random.randrange(40))}
        for block in blocks:
            content[block] = random.choice([0, 1000 * number + block + 1])
        if number and shared < len(chain.contents[0]):  # what was cut off isn't seen again
            blocks |= set(range(shared, min(size, len(chain.contents[0]))))
        chain.add(content, blocks)
    return chain


def _unused() -> AbstractContextManager[Sequence[Path]]:
    pytest.fail("nothing lies below")


def _lent(paths: Sequence[Path]) -> LendsBelow:
    return lambda: nullcontext(paths)


def _begin(path: Path) -> bytes:
    return path.read_bytes()[:IDENTIFYING_BYTES]


def test_an_image_says_what_it_is_and_on_which_one_it_stands(chain: Chain) -> None:
    chain.add([1, 2, 3], {0, 1, 2})
    chain.add([1, 9, 3], {1})
    identities = [chain.images.identify(_begin(path), str(path)) for path in chain.paths]
    assert [identity.image_id for identity in identities] == [
        facts.image_id for facts in chain.facts
    ]
    assert [identity.backing for identity in identities] == [chain.paths[1].name, None]
    assert [facts.base for facts in chain.facts] == [chain.points[1], None]
    assert [facts.file_bytes for facts in chain.facts] == [
        path.stat().st_size for path in chain.paths
    ]
    assert all(facts.data_bytes > 0 and facts.stored_bytes > 0 for facts in chain.facts)


@pytest.mark.parametrize("content", [b"", b"short", bytes(IDENTIFYING_BYTES)])
def test_what_is_no_image_is_refused_by_its_name(chain: Chain, content: bytes) -> None:
    with pytest.raises(StateDamaged, match="the place"):
        chain.images.identify(content, "the place")


def test_a_sound_image_has_no_damage(chain: Chain) -> None:
    _random_chain(chain, 1)
    for number, (path, facts) in enumerate(zip(chain.paths, chain.facts, strict=True)):
        assert not chain.images.check(path, facts, size_bytes=chain.size_bytes(number))


@pytest.mark.parametrize("place", ["first", "last", "longer", "cut", "empty"])
def test_damage_anywhere_in_the_file_is_found(chain: Chain, place: str) -> None:
    chain.add([*range(1, 61)], {*range(60)})
    path, facts = chain.paths[0], chain.facts[0]
    content = bytearray(path.read_bytes())
    if place in ("first", "last"):
        content[0 if place == "first" else -1] ^= 1
    else:
        content = {"longer": content + b"x", "cut": content[:-9], "empty": content[:0]}[place]
    path.write_bytes(content)
    damages = chain.images.check(path, facts, size_bytes=chain.size_bytes(0))
    assert damages
    if place in ("first", "empty"):
        assert damages[0].ranges is None, "nothing of the image can be read"


def test_damage_of_data_names_what_of_the_volume_is_lost(chain: Chain) -> None:
    """Blocks outside the ranges read as before, whichever byte of the file is flipped."""
    chain.add([0] * 20 + [*range(1, 41)], {*range(20, 60)})
    path, facts = chain.paths[0], chain.facts[0]
    whole, random, block = path.read_bytes(), Random(1), chain.images.block
    hits = 0
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[random.randrange(len(whole))] ^= 1 << random.randrange(8)
        path.write_bytes(flipped)
        (damage,) = chain.images.check(path, facts, size_bytes=chain.size_bytes(0))
        if damage.ranges is None:
            continue
        try:
            content = chain.images.read_chain([path])
        except (StateDamaged, ValueError):
            continue  # compressed data, or a number that is none
        lost = {at // block for first, end in damage.ranges for at in range(first, end, block)}
        differ = {at for at, version in enumerate(content) if version != chain.contents[0][at]}
        assert differ <= lost
        hits += bool(differ)
    assert hits or chain.facts[0].layout.endswith("zstd"), "no flip was read"


def test_held_ranges_hide_what_lies_below(chain: Chain) -> None:
    """Nothing of them changes if the image stands on another one."""
    for seed in range(8):
        _random_chain(chain, seed)
        block = chain.images.block
        for number, path in enumerate(chain.paths[:-1]):
            ranges = chain.images.held_ranges(path)
            assert list(ranges) == sorted(ranges)
            assert all(first < end for first, end in ranges)
            assert ranges[-1][0] <= chain.size_bytes(number) < ENDLESS < ranges[-1][1]
            held = {
                at
                for at in range(len(chain.contents[number]))
                if any(first <= at * block < end for first, end in ranges)
            }
            size = len(chain.contents[number + 1])
            below = [*range(70_001, 70_001 + size)]
            chain.paths[number + 1].rename(chain.folder / "kept")
            chain.images.write(
                chain.paths[number + 1], below, {*range(size)}, base=None, image_id=str(uuid4())
            )
            content = chain.images.read_chain(chain.paths[number : number + 2])
            (chain.folder / "kept").rename(chain.paths[number + 1])
            for at, version in enumerate(chain.contents[number]):
                is_below = at < size and at not in held
                assert content[at] == (below[at] if is_below else version if at in held else 0)
        chain.paths, chain.facts, chain.contents = [], [], []
        for path in chain.folder.iterdir():
            path.unlink()


@pytest.mark.parametrize("seed", range(12))
def test_neighbours_are_merged_and_every_point_reads_as_before(chain: Chain, seed: int) -> None:
    _random_chain(chain, seed)
    random = Random(seed)
    first = random.randrange(len(chain.paths) - 1)
    end = random.randrange(first + 2, len(chain.paths) + 1)
    merged, below, above = chain.paths[first:end], chain.paths[end:], chain.paths[:first]
    target = chain.folder / "target"
    image_id = str(uuid4())
    facts = chain.images.merge(
        merged,
        target,
        base=chain.points[end] if below else None,
        image_id=image_id,
        size_bytes=chain.size_bytes(first),
        below=_lent(below) if below else _unused,
    )
    assert facts.file_bytes == target.stat().st_size
    assert (facts.image_id, facts.base) == (image_id, chain.points[end] if below else None)
    identity = chain.images.identify(_begin(target), "target")
    assert (identity.image_id, identity.backing) == (image_id, below[0].name if below else None)
    assert not chain.images.check(target, facts, size_bytes=chain.size_bytes(first))
    for path in merged:
        path.unlink()
    target.rename(merged[0])
    left = [*above, merged[0], *below]
    for path, content in zip(chain.paths, chain.contents, strict=True):
        if path in left:
            assert chain.images.read_chain(left[left.index(path) :]) == content


def test_what_lies_below_is_lent_only_while_it_is_read(chain: Chain) -> None:
    chain.add([*range(1, 61)], {*range(60)})
    chain.add([*range(1, 8)], set())
    chain.add([*range(1, 8), *[0] * 20], set(range(7, 27)))
    lent: list[str] = []

    @contextmanager
    def below() -> Iterator[Sequence[Path]]:
        lent.append("begun")
        yield chain.paths[2:]
        lent.append("ended")

    target = chain.folder / "target"
    chain.images.merge(
        chain.paths[:2],
        target,
        base=chain.points[2],
        image_id=str(uuid4()),
        size_bytes=chain.size_bytes(0),
        below=below,
    )
    assert lent in ([], ["begun", "ended"])
    assert chain.images.read_chain([target, chain.paths[2]]) == chain.contents[0]


def test_images_that_are_no_chain_are_not_merged(chain: Chain) -> None:
    _random_chain(chain, 3)
    if isinstance(chain.images, TinyImages):
        pytest.skip("it trusts its callers")
    with pytest.raises(StateDamaged):
        chain.images.merge(
            chain.paths[:2][::-1],
            chain.folder / "target",
            base=None,
            image_id=str(uuid4()),
            size_bytes=chain.size_bytes(1),
            below=_unused,
        )
    assert not (chain.folder / "target").exists()
