"""The roll-up job: unites records of one tier into records of the next.

It takes steps 1 to 3 of `compactor`. The sources of a record are deleted in this job only if their
tier isn't kept; otherwise they are swept later (`sweep_job`).
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from mirrorlog.codec.events import encode
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.streams.compaction.partition_records import DamagedRecord, tombstones
from mirrorlog.streams.compaction.partition_state import PartitionState
from mirrorlog.streams.compaction.rollups import (
    RangeBlocks,
    RollUpSource,
    StoredRecord,
    cut_to_size,
    merged_header,
    plan_chains,
)
from mirrorlog.streams.compaction.steps import Job, Step, WatermarkDue
from mirrorlog.tracking_log.keys import record_key
from mirrorlog.tracking_log.records import MAX_PARTS

log = logging.getLogger("mirrorlog.node")

_PIECES_HELD: Final = 64
"""Pieces of a record that stay in memory while the others are counted."""


class _RolledUp(NamedTuple):
    volume: str
    record: StoredRecord
    sources: list[RollUpSource]


def roll_up(
    state: PartitionState, volumes: Sequence[str], *, tier: int, record_max_bytes: int
) -> Job:
    """Write records of `tier` for some volumes, then delete their sources or schedule their sweep.

    record_max_bytes: the limit for the bitmaps of one part of a record.
    """
    made: list[_RolledUp] = []
    for volume in volumes:
        chains = yield from _chains(state, volume, tier=tier)
        for chain in chains:
            try:
                record = yield from _write(  # 1
                    state, volume, chain, tier=tier, record_max_bytes=record_max_bytes
                )
            except DamagedRecord as damaged:
                state.damaged.add(damaged)
                state.roll_ups.add(volume, tier=tier - 1, after=chain[0].record.after)
            else:
                if record is not None:
                    made.append(_RolledUp(volume, record, chain))
        yield None
    if not made:
        return
    yield WatermarkDue()  # 2
    for volume, record, sources in made:
        state.roll_ups.add(volume, tier=tier, after=record.after)
        if keep_s := state.policy.keep_covered_s(volume, tier - 1):
            due_s = state.clock.monotonic_s() + keep_s
            state.sweeps.schedule(volume, record, due_s=due_s)
            continue
        for source in sources:
            yield from tombstones(volume, source.record)  # 3


def _chains(
    state: PartitionState, volume: str, *, tier: int
) -> Generator[Step, None, list[list[RollUpSource]]]:
    """Return the chains of the tier below that become records of `tier` now.

    Records that have to wait for further ones are noted in the queue. Records that are damaged,
    that miss a part, or that were rolled up already are left out.
    """
    below = tier - 1
    after = state.roll_ups.take_start(volume, tier=below)
    if after is None:
        return []
    complete_through = state.records.complete_through()
    rolled_up = state.sweeps.rolled_up(volume)
    sources: list[RollUpSource] = []
    later: list[int] = []
    for record in state.records.beginning_in(volume, tier=below, after=after):
        if state.damaged.has(volume, record) or rolled_up.covering(record) is not None:
            continue
        if record.through > complete_through:
            later.append(record.after)  # a crash cut its flush off: the flush is repeated
            continue
        try:
            sources.append(state.records.source(volume, record))
        except DamagedRecord as damaged:
            state.damaged.add(damaged)
        yield None
    chains = plan_chains(source for source in sources if source.is_complete)
    later += [chain[0].record.after for chain in chains[-1:] if len(chain) == 1]
    if later:
        state.roll_ups.put_back(volume, tier=below, after=min(later))
    return [chain for chain in chains if len(chain) > 1]


def _write(
    state: PartitionState,
    volume: str,
    chain: Sequence[RollUpSource],
    *,
    tier: int,
    record_max_bytes: int,
) -> Generator[Step, None, StoredRecord | None]:
    """Yield the rows of the chain's record, and return the record.

    Return None, without a row, if the record would have more than MAX_PARTS parts.

    Each part says how many parts there are. So a record of more than _PIECES_HELD pieces is united
    twice: to count its pieces, and to write them. DamagedRecord if a source can't be read.
    """

    def united() -> Iterator[RangeBlocks | None]:
        return cut_to_size(state.records.united(volume, chain), record_max_bytes)

    first_pieces: list[RangeBlocks] = []
    count = 0
    for piece in united():
        if piece is None:
            yield None
            continue
        count += 1
        if count <= _PIECES_HELD:
            first_pieces.append(piece)
    if count > MAX_PARTS:
        log.warning(
            "%d records of volume %s stay in tier %d: in one record they would have %d parts, and "
            "%d are possible",
            len(chain),
            volume,
            tier - 1,
            count,
            MAX_PARTS,
        )
        return None
    whole = replace(merged_header(tier, chain), parts=max(count, 1))
    no_piece = RangeBlocks(BlockSet(), BlockSet())
    number = 0
    for piece in united() if count > _PIECES_HELD else first_pieces or [no_piece]:
        if piece is None:
            yield None
            continue
        part = replace(whole, changed=piece.changed, zeroed=piece.zeroed, part=number)
        yield record_key(part), encode(part)
        number += 1
    return StoredRecord(
        tier=tier, after=whole.after, through=whole.through, part_numbers=tuple(range(number))
    )
