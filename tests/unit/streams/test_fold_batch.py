"""BatchFolder: no command is passed over between two batches, or inside one (invariant 7)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest
from notation import command, volume
from sources import FixedSource, NoHistories

from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import CommandKind
from mirrorlog.errors import OutOfRetention
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.world.crashes import Fuse
from mirrorlog.simulation.world.node import NodeModel
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.fold_batch import BatchFolder

# committed | positions of a batch | gap asked about, as first..end | the reason it has
GAPS = """
5 | 5 6 7     |      |
5 | 3 4 5     |      |
5 | 7 8       | 5..7 |
5 | 7 8       | 5..7 | were deleted
5 | 5 6 9     | 7..9 | were passed over
"""


@pytest.mark.parametrize("case", GAPS.strip().splitlines())
def test_a_gap_is_asked_about_before_anything_is_folded(case: str) -> None:
    committed, positions, asked, answer = (part.strip() for part in case.split("|"))
    source = FixedSource(answer or None)
    gate = CommitGate("t")
    gate.assign(0, position=int(committed))
    folder = BatchFolder(
        None,  # type: ignore[arg-type]
        gate,
        None,  # type: ignore[arg-type]
        source,
        clock=None,  # type: ignore[arg-type]
        record_max_bytes=0,
        compactor=None,  # type: ignore[arg-type]
        histories=NoHistories(),
    )
    check = folder._check_continues(0, [int(position) for position in positions.split()])
    if answer:
        with pytest.raises(OutOfRetention, match=answer):
            asyncio.run(check)
    else:
        asyncio.run(check)
    assert source.questions == ([asked] if asked else [])


def test_a_volume_that_was_known_before_its_first_command_gets_the_history() -> None:
    """The first command of another volume let the node read all descriptions."""
    broker, settings = MemoryBroker(), Settings()
    topics = settings.topics
    broker.create(topics.specs(single_copy=True), 1)
    node, publisher = NodeModel(broker, settings, Fuse(), Random(1)), broker.publisher()
    for name in "vw":
        publish_volume(publisher, topics, volume(name))
    publisher.flush(0)
    for name in "vw":
        opened = command("", kind=CommandKind.SESSION_OPEN, sequence=0)
        opened = replace(opened, volume=name, host=name, session=name)
        broker.append(topics.commands, 0, name.encode(), encode(opened))
        assert node.fold(10)
    described = Catalog(broker.reader(), broker, topics, ManualClock())
    described.refresh()
    assert {one.volume: one.history_id for one in described.values()} == {
        "v": node.history_id,
        "w": node.history_id,
    }
