"""Contents of a replay don't depend on where a range begins, and differ for each version."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.producers.replay.contents import SECTOR_BYTES, fill


@given(
    st.integers(0, 1 << 60),
    st.integers(0, 3000),
    st.integers(0, 3000),
    st.integers(0, 3000),
    st.integers(0, 1 << 64),
)
def test_a_part_of_a_range_has_the_same_bytes_as_the_range(
    offset: int, length: int, skip: int, part: int, version: int
) -> None:
    skip, part = min(skip, length), min(part, max(length - skip, 0))
    whole = fill("volume", offset=offset, length=length, version=version)
    assert len(whole) == length
    assert whole[skip : skip + part] == fill(
        "volume", offset=offset + skip, length=part, version=version
    )
    assert 0 not in whole


def test_no_two_versions_sectors_or_volumes_share_a_word() -> None:
    words: set[bytes] = set()
    for volume in ("a", "b"):
        for version in range(40):
            data = fill(volume, offset=0, length=16 * SECTOR_BYTES, version=version)
            words.update(data[start : start + 8] for start in range(0, len(data), SECTOR_BYTES))
    assert len(words) == 2 * 40 * 16
