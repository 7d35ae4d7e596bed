"""Claims of ranges become a map that says the same of each byte, without a gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.consumers.file_names.claims import MAX_SHARERS
from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.index_format import pack_index, unpack_index
from mirrorlog.consumers.file_names.map_builder import AreaMap, MapBuilder, Tier
from mirrorlog.consumers.file_names.owners import Area, Owner, OwnerKind

SIZE = 60
CLAIMS = st.lists(
    st.tuples(
        st.sampled_from([Tier.USED, Tier.FREE, Tier.AREA]),
        st.integers(-5, SIZE + 5),
        st.integers(0, 30),
        st.integers(1, 4),
    ),
    max_size=25,
)


def index_of(claims: list[tuple[Tier, int, int, int]], size: int = SIZE) -> FileIndex:
    builder = MapBuilder(size)
    builder.add_area(Area(number=0, start=0, length=size, type_name="test"))
    for tier, start, length, inode in claims:
        owner = Owner(kind=OwnerKind.FILE, area=0, first_inode=inode, last_inode=int(tier))
        builder.claim(tier, start, length, owner)
    return builder.result(began_at_us=1, read_at_us=2)


def expected(claims: list[tuple[Tier, int, int, int]], byte: int) -> set[int]:
    """Return the inodes that own a byte: of the highest tier that claims it."""
    for tier in (Tier.USED, Tier.FREE, Tier.AREA):
        inodes = {
            inode
            for its, start, length, inode in claims
            if its is tier and start <= byte < start + length
        }
        if inodes:
            return inodes
    return set()


@given(CLAIMS)
def test_each_byte_belongs_to_the_claims_of_its_highest_tier(
    claims: list[tuple[Tier, int, int, int]],
) -> None:
    index = unpack_index(pack_index(index_of(claims)))
    pieces = index.pieces(np.arange(SIZE), np.ones(SIZE, np.int64))
    assert pieces.starts.tolist() == list(range(SIZE))
    for byte in range(SIZE):
        owners = index.owners(int(pieces.owners[byte]))
        if len(owners) == 1 and owners[0].kind is not OwnerKind.FILE:
            assert owners[0].kind is OwnerKind.NO_PARTITION
            assert not expected(claims, byte)
        else:
            assert {owner.first_inode for owner in owners} == expected(claims, byte)


@given(CLAIMS, st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)), max_size=9))
def test_pieces_of_a_range_add_up_to_it_in_order(
    claims: list[tuple[Tier, int, int, int]], ranges: list[tuple[int, int]]
) -> None:
    columns = np.array([(at, min(length, SIZE - at)) for at, length in ranges], np.int64)
    columns = columns.reshape(-1, 2)
    pieces = index_of(claims).pieces(columns[:, 0], columns[:, 1])
    for row, (start, length) in enumerate(columns.tolist()):
        of_row = pieces.rows == row
        starts, lengths = pieces.starts[of_row].tolist(), pieces.lengths[of_row].tolist()
        assert starts[0] == start
        assert [at + size for at, size in zip(starts, lengths, strict=True)] == [
            *starts[1:],
            start + length,
        ]


def test_a_file_system_claims_nothing_outside_its_partition() -> None:
    builder = MapBuilder(SIZE)
    bare = Area(number=1, start=20, length=10, type_name="test")
    area = AreaMap(builder, builder.add_area(bare), 20, 10)
    file = area.owner(Owner(kind=OwnerKind.FILE, first_inode=1, last_inode=1))
    area.claim(Tier.USED, -5, 7, file)
    area.claim(Tier.USED, 8, 1 << 62, file)
    starts, lengths = np.array([-9, 5, 9]), np.array([3, 40, 40])
    area.claim_all(Tier.FREE, starts, lengths, area.owner(Owner(kind=OwnerKind.FREE)))
    area.end(bare, 1 << 62)
    index = builder.result(began_at_us=0, read_at_us=0)
    kinds = [index.owners(number)[0].kind for number in index.owner_numbers.tolist()]
    nothing = OwnerKind.NO_PARTITION
    assert (index.edges.tolist(), kinds) == (
        [0, 20, 22, 25, 28, 30, SIZE],
        [nothing, OwnerKind.FILE, OwnerKind.UNKNOWN, OwnerKind.FREE, OwnerKind.FILE, nothing],
    )


def test_a_range_outside_the_index_is_refused() -> None:
    with pytest.raises(ValueError, match="outside the 60 bytes"):
        index_of([]).pieces(np.array([59]), np.array([2]))


def test_a_volume_larger_than_its_device_ends_with_what_isnt_there() -> None:
    index = index_of([(Tier.USED, 0, 5, 1), (Tier.USED, 3, 5, 2)]).covering(SIZE + 10)
    owners = [index.owners(int(number)) for number in index.owner_numbers]
    kinds = [[owner.kind for owner in each_owner] for each_owner in owners]
    file, both = OwnerKind.FILE, [OwnerKind.FILE, OwnerKind.FILE]
    assert kinds == [[file], both, [file], [OwnerKind.NO_PARTITION], [OwnerKind.NOT_THERE]]
    assert index.size_bytes == SIZE + 10


def test_more_files_than_a_sane_file_system_shares_are_said_and_not_listed() -> None:
    index = index_of([(Tier.USED, 10, 10, inode) for inode in range(MAX_SHARERS + 1)])
    (pieces,) = index.pieces(np.array([10]), np.array([10])).owners.tolist()
    assert [owner.kind for owner in index.owners(pieces)] == [OwnerKind.SHARED]


@given(st.binary(max_size=300), st.integers(0, 2000), st.integers(0, 255))
def test_a_damaged_answer_is_refused_or_makes_sense(tail: bytes, at: int, byte: int) -> None:
    """It is never an index that answers with something else than an error."""
    whole = bytearray(pack_index(index_of([(Tier.USED, 3, 5, 1), (Tier.USED, 4, 9, 2)])))
    whole[at % len(whole)] = byte
    for data in (tail, bytes(whole), bytes(whole[: at % len(whole)])):
        try:
            index = unpack_index(data)
        except ValueError:
            continue
        pieces = index.pieces(index.edges[:-1], np.diff(index.edges))
        for number in pieces.owners.tolist():
            for owner in index.owners(number):
                index.paths(owner)
