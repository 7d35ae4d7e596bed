"""Which side wrote what since two copies of a volume parted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import GENERATION, OTHER_GENERATION, command, promotion, volume

from mirrorlog.changed.divergence import Divergence, chosen_promotion, divergence_of
from mirrorlog.changed.volume_commands import VolumeCommand
from mirrorlog.domain.volume_states import apply
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse

BLOCK = 4096


def promoted() -> Volume:
    return apply(volume(), promotion(parted_position=5), 9)


def at(position: int, text: str, generation: str = GENERATION, **more: object) -> VolumeCommand:
    made = command(text, generation=generation, **more)
    return VolumeCommand(position, made, made.extents)


def diverged(*commands: VolumeCommand, known: Volume | None = None) -> Divergence:
    described = known or promoted()
    return divergence_of(described, chosen_promotion(described, None), commands, 99)


def test_each_side_has_its_own_blocks_hosts_and_times() -> None:
    divergence = diverged(
        at(6, f"0+{BLOCK}", host="old", first_at_us=10, last_at_us=11),
        at(7, f"{BLOCK}+{2 * BLOCK}", host="old", first_at_us=20, last_at_us=21),
        at(10, f"{BLOCK}+1", OTHER_GENERATION, host="new", first_at_us=15, last_at_us=30),
        at(11, f"{10 * BLOCK - 1}+2", host="old", first_at_us=40, last_at_us=41),
        at(12, "", OTHER_GENERATION, host="new"),
    )
    former = [(run.first_block, run.blocks, run.hosts) for run in divergence.former.runs()]
    assert former == [(0, 3, ("old",)), (9, 2, ("old",))]
    times = [(run.first_at_us, run.last_at_us) for run in divergence.former.runs()]
    assert times == [(10, 21), (40, 41)]
    assert [(run.first_block, run.blocks, run.hosts) for run in divergence.current.runs()] == [
        (1, 1, ("new",))
    ]
    assert (divergence.former.commands, divergence.current.commands) == (3, 1)
    assert list(divergence.former.blocks & divergence.current.blocks) == [1]


def test_what_was_written_before_the_promotion_is_of_the_former_side_whatever_it_names() -> None:
    divergence = diverged(at(8, f"0+{BLOCK}", "an operator's"))
    assert len(divergence.former.blocks) == 1 and not divergence.current.blocks


def test_a_copy_that_missed_two_promotions_is_former_for_both() -> None:
    third = "44444444-4444-4444-8444-444444444444"
    again = promotion("c", generation=OTHER_GENERATION, new_generation=third, parted_position=12)
    known = apply(promoted(), again, 20)
    divergence = diverged(
        at(21, f"0+{BLOCK}"),
        at(22, f"{BLOCK}+1", OTHER_GENERATION),
        at(23, "0+1", third),
        known=known,
    )
    assert (len(divergence.former.blocks), len(divergence.current.blocks)) == (2, 1)


def test_a_volume_without_a_promotion_has_no_other_side() -> None:
    with pytest.raises(BadUse, match="no copy of the volume was promoted"):
        chosen_promotion(volume(), None)
    with pytest.raises(BadUse, match="no promotion has position 3"):
        chosen_promotion(promoted(), 3)
    assert chosen_promotion(replace(promoted()), 9).site == "b"
