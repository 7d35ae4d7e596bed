"""Roll-ups: which records become one, and what it holds (invariants 3, 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from notation import GENERATION, OTHER_GENERATION, record

from mirrorlog.domain.bitmaps import BlockSet, pack, union
from mirrorlog.streams.compaction import rollups
from mirrorlog.streams.compaction.rollups import (
    CoverIndex,
    RangeBlocks,
    RollUpSource,
    StoredRecord,
    cut_to_size,
    is_within,
    merged_header,
    plan_chains,
    unite,
)
from mirrorlog.tracking_log.records import LogRecord


def stored(
    tier: int, after: int, through: int, part_numbers: tuple[int, ...] = (0,)
) -> StoredRecord:
    return StoredRecord(tier=tier, after=after, through=through, part_numbers=part_numbers)


def stored_of(record: LogRecord) -> StoredRecord:
    return stored(record.tier, record.after, record.through, tuple(range(record.parts)))


def source(text: str) -> RollUpSource:
    """Parse a source: `3..7` as in notation.record, `g3..7` of another generation."""
    generation = OTHER_GENERATION if text.startswith("g") else GENERATION
    first = replace(record(text.lstrip("g"), "1"), generation=generation)
    return RollUpSource(stored_of(first), first, 100)


# records of one tier | the chains that they make
CHAINS = """
-1..4 4..9                | -1..9
4..9 -1..4                | -1..9
-1..4 2..9 5..7           | -1..9
-1..4 5..9                | -1..4 5..9
-1..4 4..6 7..9 9..12     | -1..6 7..12
-1..4 g4..9 4..9 g9..12   | -1..9 g4..12
-1..9 g2..5 g5..7         | -1..9 g2..7
-1..4 3..4 3..5 4..5      | -1..5
"""


@pytest.mark.parametrize("case", CHAINS.strip().splitlines())
def test_chains_have_no_hole_and_one_generation(case: str) -> None:
    given, expected = (part.split() for part in case.split("|"))
    made = []
    for chain in plan_chains(source(text) for text in given):
        whole = merged_header(1, chain)
        made.append(
            f"{'g' if whole.generation == OTHER_GENERATION else ''}{whole.after}..{whole.through}"
        )
    assert made == expected


def test_a_chain_is_cut_where_it_would_take_too_much_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollups, "MAX_SOURCES", 2)
    texts = [f"{n}..{n + 1}" for n in range(5)]
    assert [len(chain) for chain in plan_chains(source(text) for text in texts)] == [2, 2, 1]


def test_counts_and_times_are_those_of_a_cover() -> None:
    spans = {"-1..4": (5, 7, ("a",)), "1..3": (1, 2, ("a",)), "4..9": (3, 30, ("b",))}
    chain = []
    for text, (first, last, hosts) in spans.items():
        part = replace(
            source(text).first, first_at_us=first, last_at_us=last, hosts=hosts, writes=10
        )
        chain.append(RollUpSource(stored_of(part), part, 0))
    whole = merged_header(2, plan_chains(chain)[0])
    assert (whole.tier, whole.first_at_us, whole.last_at_us, whole.hosts, whole.writes) == (
        2,
        1,
        30,
        ("a", "b"),
        20,
    )


def parts(blocks: RangeBlocks, max_bytes: int) -> Iterator[LogRecord]:
    """Yield the parts of a record of these blocks."""
    for piece in cut_to_size([blocks] if blocks.changed else [], max_bytes):
        if piece is not None:
            yield replace(record("-1..9"), changed=piece.changed, zeroed=piece.zeroed)


def scattered(random: Random) -> BlockSet:
    blocks = BlockSet()
    for _ in range(random.randint(1, 40)):
        first = random.choice((0, (1 << 26) - 50, 3 << 26, 1 << 40)) + random.randrange(
            1 << random.randint(1, 18)
        )
        blocks.add_range(first, first + random.choice((1, 2, 700)))
    return blocks


def test_pieces_hold_what_the_records_held_and_depend_on_nothing_else() -> None:
    random = Random(1)
    for _ in range(15):
        sets = [scattered(random) for _ in range(3)]
        zeros = [BlockSet([b for b in blocks if b % 3 == 0]) for blocks in sets]
        everything, zeroed = union(sets), union(zeros)
        cuts = []
        for source_bytes in (120, 1000, 10**6):
            sources = [
                parts(RangeBlocks(*pair), source_bytes) for pair in zip(sets, zeros, strict=True)
            ]
            pieces = cut_to_size(unite(sources), 400)
            cuts.append([piece for piece in pieces if piece is not None])
        for pieces in cuts:
            assert all(
                pack(piece.changed).size_bytes + pack(piece.zeroed).size_bytes <= 400
                or len(piece.changed) == 1
                for piece in pieces
            )
            assert [(pack(piece.changed), pack(piece.zeroed)) for piece in pieces] == [
                (pack(piece.changed), pack(piece.zeroed)) for piece in cuts[0]
            ]
            assert union(piece.changed for piece in pieces) == everything
            assert union(piece.zeroed for piece in pieces) == zeroed
            assert all(low.changed.max() < high.changed.min() for low, high in pairwise(pieces))


@pytest.mark.parametrize(
    ("more", "more_zeroed", "within"),
    [((), (), True), ((1 << 27,), (), False), ((7,), (), False), ((), (9,), False)],
)
def test_one_record_is_proved_to_hold_others(
    more: Sequence[int], more_zeroed: Sequence[int], within: bool
) -> None:
    whole = BlockSet([1, 9, 1 << 26, 1 << 40])
    given = [
        RangeBlocks(BlockSet([1, 9]), BlockSet(more_zeroed)),
        RangeBlocks(BlockSet([1 << 40, *more]), BlockSet()),
    ]
    held = unite([parts(RangeBlocks(whole, BlockSet()), 100)])
    *_, answer = is_within(unite([parts(blocks, 100) for blocks in given]), held)
    assert answer is within


def test_the_covering_record_is_the_lowest_one_above_that_covers_all_positions() -> None:
    records = [stored(1, -1, 9), stored(1, 3, 5), stored(2, -1, 30), stored(3, 40, 50)]
    index = CoverIndex(records)
    asked = (
        stored(0, 4, 9),
        stored(0, 9, 12),
        stored(1, 3, 5),
        stored(2, 3, 5),
        stored(3, 40, 50),
        stored(0, 39, 45),
    )
    assert [index.covering(record) for record in asked] == [
        records[0],
        records[2],
        records[2],
        None,
        None,
        None,
    ]
