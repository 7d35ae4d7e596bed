"""A promotion is decided by its position, and says from where on two copies differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import GENERATION, OTHER_GENERATION, PRIMARY_ID, command, promotion, volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import CommandKind, RejectReason, TrackingCommand
from mirrorlog.domain.promotions import MAX_PROMOTIONS, Promotion
from mirrorlog.domain.volume_states import apply, transition
from mirrorlog.domain.volumes import Volume

THIRD = "44444444-4444-4444-8444-444444444444"


def test_a_promotion_renews_the_generation_and_continues_the_log() -> None:
    before = volume(secondaries={"b": "memory:b"}, first_created_at_us=1)
    after = apply(before, promotion(), 9)
    assert after == replace(
        before,
        generation=OTHER_GENERATION,
        log_generation=GENERATION,
        primary="memory:b",
        primary_site="b",
        primary_id=PRIMARY_ID,
        described_position=9,
        promotions=(
            Promotion(
                position=9,
                site="b",
                parted_position=5,
                former_generation=GENERATION,
                former_primary="memory:primary",
                at_us=3,
            ),
        ),
    )
    assert after.generation_of_log == before.generation_of_log == GENERATION
    assert after.parted_after(GENERATION) == 5
    assert after.parted_after(OTHER_GENERATION) is None
    assert not after.is_followed_by("b") and after.is_followed_by("a")


def test_of_two_promotions_at_once_exactly_one_wins_whenever_they_are_read() -> None:
    first, second = promotion("b"), promotion("c", new_generation=THIRD)
    once = apply(volume(), first, 9)
    lost = transition(once, second, 10)
    assert lost.volume == once
    assert lost.refusal is not None and lost.refusal.reason is RejectReason.OTHER_GENERATION
    assert OTHER_GENERATION in lost.refusal.text
    # A replay answers the same, also after a later promotion.
    later = apply(once, promotion("c", generation=OTHER_GENERATION, new_generation=THIRD), 20)
    for known in (once, later):
        assert transition(known, first, 9).refusal is None
        assert transition(known, first, 9).volume == known
        replayed = transition(known, second, 10)
        assert replayed.volume == known and replayed.refusal == lost.refusal
    assert later.parted_after(GENERATION) == 5
    assert [promotion.former_site for promotion in later.promotions] == [None, "b"]


def test_the_earliest_parting_counts_for_a_copy_that_missed_several_promotions() -> None:
    chain = volume()
    known = GENERATION
    for number, parted in enumerate((7, 3, 8)):
        new = str(number) * 8 + "-0000-4000-8000-000000000000"
        site = f"s{number}"
        chain = apply(
            chain,
            promotion(site, generation=known, new_generation=new, parted_position=parted),
            10 + number,
        )
        known = new
    assert [chain.parted_after(promotion.former_generation) for promotion in chain.promotions] == [
        3,
        3,
        8,
    ]


def test_a_promotion_from_an_unknown_position_begins_the_log_anew() -> None:
    after = apply(volume(), promotion(parted_position=None), 9)
    assert after.generation_of_log == after.generation == OTHER_GENERATION
    assert (after.origin_position, after.initially_zeroed) == (9, False)
    assert after.parted_after(GENERATION) is None
    assert after.born_at_us == volume().born_at_us


def test_a_renewal_forgets_where_copies_parted() -> None:
    promoted = apply(volume(), promotion(), 9)
    renewal = command(
        kind=CommandKind.NEW_GENERATION, generation=OTHER_GENERATION, new_generation=THIRD
    )
    renewed = apply(promoted, renewal, 12)
    assert renewed.promotions == () and renewed.generation_of_log == THIRD
    assert (renewed.primary_site, renewed.primary_id) == ("b", PRIMARY_ID)


@pytest.mark.parametrize(
    "wrong",
    [
        {"new_generation": "g"},
        {"primary_id": "id"},
        {"site": "a/b"},
        {"primary": ""},
        {"parted_position": 9},
        {"parted_position": -2},
    ],
    ids=str,
)
def test_what_no_promotion_can_say_is_refused(wrong: dict[str, object]) -> None:
    result = transition(volume(), promotion(**wrong), 9)
    assert result.volume == volume()
    assert result.refusal is not None
    assert result.refusal.reason is RejectReason.MALFORMED_COMMAND


def test_a_site_isn_t_promoted_twice_in_a_row() -> None:
    promoted = apply(volume(), promotion(), 9)
    again = promotion(generation=OTHER_GENERATION, new_generation=THIRD)
    refusal = transition(promoted, again, 12).refusal
    assert refusal is not None and "already" in refusal.text


def test_a_description_keeps_the_last_promotions() -> None:
    chain, known = volume(), GENERATION
    for number in range(MAX_PROMOTIONS + 3):
        new = f"{number:08}-0000-4000-8000-000000000000"
        step = promotion(f"s{number}", generation=known, new_generation=new)
        chain, known = apply(chain, step, 10 + number), new
    assert len(chain.promotions) == MAX_PROMOTIONS
    assert chain.parted_after(GENERATION) is None


def test_the_bytes_of_a_promotion_and_of_a_description_never_change() -> None:
    described = bytes.fromhex(  # of version 5
        "c30119380a6393f7d4f802764831313131313131312d313131312d343131312d383131312d31313131313131"
        "31313131318080800180400001011c6d656d6f72793a7072696d617279000002000001000000000000000000"
        "0000"
    )
    assert decode(described, Volume) == volume()
    golden = bytes.fromhex(
        "c301f5558a1dc18f3f8902764831313131313131312d313131312d343131312d383131312d31313131313131"
        "313131313102680270064832323232323232322d323232322d343232322d383232322d323232323232323232"
        "3232320262106d656d6f72793a624833333333333333332d333333332d343333332d383333332d3333333333"
        "33333333333333020a00"
    )
    assert encode(promotion()) == golden
    read = decode(golden, TrackingCommand)
    assert encode(read) == golden and read.kind is CommandKind.PROMOTE


def test_a_description_of_the_version_before_is_read() -> None:
    before = (
        "c301ed96db57df5689d902764831313131313131312d313131312d343131312d383131312d31313131313131"
        "31313131318080800180400001011c6d656d6f72793a7072696d61727900000200000100000000000000"
    )
    assert decode(bytes.fromhex(before), Volume) == volume()
