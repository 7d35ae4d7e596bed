"""In which blocks two points differ, by the log, and when nobody can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from backup_positions import at
from logs import Log
from notation import GENERATION, OTHER_GENERATION, command, volume

from mirrorlog.consumers.backup.sources.log_changes import changes_between, position_facts
from mirrorlog.consumers.backup.sources.source_point import (
    BackupPosition,
    ChangesKnown,
    ChangesUnknown,
    SourcePoint,
    choose_blocks,
    within,
)
from mirrorlog.consumers.range_reads import DeviceReader
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.promotions import Promotion
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.simulation.memory_devices import MemoryDevice

HISTORY = "44444444-4444-4444-8444-444444444444"


def folded(extents: Sequence[str], flushes: str, of: Volume | None = None) -> Log:
    """Return a log with a command of each text. flushes: how many commands each has."""
    log = Log([of or volume()])
    log.publish([command(text, sequence=number) for number, text in enumerate(extents)])
    for count in flushes.split():
        log.flush(int(count))
    return log


def blocks_of(changes: object) -> tuple[list[int], list[int]]:
    assert isinstance(changes, ChangesKnown), changes
    return list(changes.blocks), list(changes.zeroed)


# commands | flushes | base -> now | blocks | zeroed
CASES = """
0+4096 4096+4096 8192+4096          | 3     | 0 -> 2  | 1 2   |
0+4096 4096+4096 8192+4096          | 1 1 1 | 0 -> 2  | 1 2   |
0+4096 4096+4096 8192+4096          | 3     | 2 -> 0  | 1 2   |
0+4096 4096+4096 8192+4096          | 3     | 1 -> 1  |       |
0+4096 z4096+8192 8192+4096         | 1 2   | 0 -> 2  | 1 2   |
0+4096 z4096+8192 8192+4096         | 3     | 0 -> 2  | 1 2   | 1
0+4096 z4096+8192 8192+4096         | 1 1 1 | 0 -> 1  | 1 2   | 1 2
0+4096 z4096+8192 8192+4096         | 1 1 1 | 1 -> 0  | 1 2   |
0+4096 z4096+100 d8192+4096         | 3     | 0 -> 2  | 1 2   | 2
"""


@pytest.mark.parametrize("case", CASES.strip("\n").splitlines())
def test_two_points_differ_in_what_the_log_names_between_them(case: str) -> None:
    commands, flushes, positions, blocks, zeroed = (part.strip() for part in case.split("|"))
    log = folded(commands.split(), flushes)
    base, now = (int(position) for position in positions.split(" -> "))
    changes = changes_between(at(base), at(now), volume(), log.ports(), 0.0)
    expected = ([int(block) for block in part.split()] for part in (blocks, zeroed))
    assert blocks_of(changes) == tuple(expected)


def test_blocks_of_whole_records_are_named_if_the_commands_at_an_edge_are_gone() -> None:
    log = folded(["0+4096", "z4096+4096", "8192+4096", "12288+4096"], "3 1")
    commands = log.broker.partition(log.topics.commands, 0)
    commands.messages, commands.first = commands.messages[3:], 3
    changes = changes_between(at(0), at(1), volume(), log.ports(), 0.0)
    assert blocks_of(changes) == ([0, 1, 2], [])


def test_a_hole_is_said() -> None:
    log = folded(["0+4096", "4096+4096", "8192+4096"], "1 1 1")
    log.lose_records([1])
    changes = changes_between(at(0), at(2), volume(), log.ports(), 0.0)
    assert isinstance(changes, ChangesUnknown) and changes.lost_log
    assert "positions 1 to 2" in changes.reason


def test_a_log_that_begins_later_is_said() -> None:
    mine = volume(origin_position=1)
    log = folded(["0+4096", "4096+4096", "8192+4096"], "1 1 1", mine)
    changes = changes_between(at(0), at(2), mine, log.ports(), 0.0)
    assert isinstance(changes, ChangesUnknown) and changes.lost_log
    assert blocks_of(changes_between(at(1), at(2), mine, log.ports(), 0.0)) == ([2], [])


def test_positions_of_another_history_say_nothing() -> None:
    log = folded(["0+4096", "4096+4096"], "2")
    base = at(0, history_id=HISTORY)
    changes = changes_between(base, at(1), volume(), log.ports(), 0.0)
    assert isinstance(changes, ChangesUnknown) and "history" in changes.reason


def test_a_position_that_was_used_again_says_nothing() -> None:
    log = folded(["0+4096", "4096+4096"], "2")
    anchor = position_facts(volume(), 0, log.ports()).anchor
    assert anchor is not None
    assert blocks_of(changes_between(at(0, anchor=anchor), at(1), volume(), log.ports(), 0.0)) == (
        [1],
        [],
    )
    for states in [
        (at(0, anchor="0" * 32), at(1)),
        (at(0), at(1, anchor="0" * 32)),
        (at(2), at(1)),  # the topic ends there
    ]:
        changes = changes_between(*states, volume(), log.ports(), 0.0)
        assert isinstance(changes, ChangesUnknown)
        assert "went back in time" in changes.reason


def test_a_promotion_adds_what_the_former_primary_wrote_above_the_parting() -> None:
    def promoted(parted: int | None) -> Volume:
        promotion = Promotion(
            position=3,
            site="a",
            former_generation=OTHER_GENERATION,
            parted_position=parted,
            former_primary="memory:former",
            at_us=1,
        )
        return volume(promotions=(promotion,), log_generation=GENERATION)

    log = folded([f"{number * 4096}+4096" for number in range(6)], "6", promoted(1))
    base = at(2, generation=OTHER_GENERATION)
    changes = changes_between(base, at(5), promoted(1), log.ports(), 0.0)
    assert blocks_of(changes)[0] == [2, 3, 4, 5]
    unproved = replace(base, is_consistent=False)
    for state, parted in [(unproved, 1), (base, None)]:
        changes = changes_between(state, at(5), promoted(parted), log.ports(), 0.0)
        assert isinstance(changes, ChangesUnknown) and "generation" in changes.reason
    strange = at(2, generation=HISTORY)
    assert isinstance(
        changes_between(strange, at(5), promoted(1), log.ports(), 0.0), ChangesUnknown
    )


def test_nothing_is_known_without_an_earlier_point() -> None:
    log = folded(["0+4096"], "1")
    assert isinstance(changes_between(None, at(0), volume(), log.ports(), 0.0), ChangesUnknown)


def test_the_time_of_a_position_is_the_brokers() -> None:
    log = Log([volume()])
    log.publish([command("0+4096"), command("0+4096", sequence=1)], [100.0, 200.0])
    ports = log.ports()
    assert position_facts(volume(), 0, ports).at_us == 100 * 10**6
    first, second = (position_facts(volume(), position, ports) for position in (0, 1))
    assert None not in (first.anchor, second.anchor)
    assert first.anchor != second.anchor
    # No message is at the position: an aborted transaction, or its marker.
    partition = log.broker.partition(log.topics.commands, 0)
    partition.messages = partition.messages[:1]
    assert position_facts(volume(), 1, ports) == (None, 100 * 10**6, 2)
    assert position_facts(volume(), -1, ports) == (None, None, 2)


def test_the_rung_of_an_image() -> None:
    known = ChangesKnown(blocks=BlockSet([1, 2, 300]), zeroed=BlockSet([2, 300]))
    mine = volume()
    assert mine.blocks == 256
    point = SourcePoint(
        volume=mine,
        position=at(5),
        at_us=None,
        source="site a",
        reason=None,
        reader=DeviceReader(MemoryDevice(1 << 20)),
        changes=within(known, mine),
        allocated=None,
    )
    chosen = choose_blocks(point, has_base=True)
    assert (chosen.rung, chosen.reason) == (Rung.CHANGED, None)
    assert (list(chosen.data), list(chosen.zeros)) == ([1], [2])
    unknown = replace(point, changes=ChangesUnknown("the log has a hole"))
    chosen = choose_blocks(unknown, has_base=True)
    assert (chosen.rung, chosen.reason) == (Rung.FULL, "the log has a hole")
    assert (len(chosen.data), len(chosen.zeros)) == (256, 0)
    chosen = choose_blocks(replace(unknown, allocated=BlockSet([7])), has_base=False)
    assert (chosen.rung, chosen.reason) == (Rung.ALLOCATED, None)
    assert list(chosen.data) == [7]


@pytest.mark.parametrize(
    "wrong",
    [{"position": -2}, {"generation": "v"}, {"history_id": "v"}, {"anchor": "0" * 31}],
)
def test_impossible_positions_are_refused(wrong: dict[str, object]) -> None:
    fields = {"position": 0, "generation": GENERATION, "history_id": None, "anchor": None}
    with pytest.raises(ValueError):
        BackupPosition(**(fields | wrong), is_consistent=True)  # type: ignore[arg-type]
