"""What folding can cost at least, step by step: consume; consume and decode; consume, decode and union.

A program under test of bench_node.py: no table, no changelog, no answers, nothing committed. Batches of as many commands
as a flush of the node takes at most.
"""

from __future__ import annotations

import argparse
import json
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from mirrorlog.codec.command_columns import CommandColumns, decode_columns
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BitMap64, touched, union
from mirrorlog.domain.block_arrays import Blocks, blocks_of
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.settings import load_settings

Step = Callable[[Sequence[bytes]], None]


def say(message_type: str, **fields: object) -> None:
    """One JSON line."""
    print(json.dumps({"message_type": message_type, "at_s": time.time(), **fields}), flush=True)


class Fold:
    """What the node does of it: for each batch, the set of each of its volumes. They are united when the clock has stopped."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._sets: dict[str, list[Blocks | BitMap64]] = defaultdict(list)

    def take(self, values: Sequence[bytes]) -> None:
        """One batch."""
        columns = decode_columns(values)
        for number, sender in enumerate(columns.senders):
            self._add(sender.volume, columns.extents_of(np.flatnonzero(columns.sender == number)))
        for command in decoded_one_by_one(columns):
            self._add(command.volume, command.extents)

    def _add(self, volume: str, extents: ExtentColumns) -> None:
        blocks = blocks_of(extents, self._block_size)
        self._sets[volume].append(touched(extents, self._block_size) if blocks is None else blocks)

    def united(self) -> dict[str, BitMap64]:
        """Everything, by volume."""
        return {volume: union(map(_as_bitmap, sets)) for volume, sets in self._sets.items()}


def _as_bitmap(blocks: Blocks | BitMap64) -> BitMap64:
    return (
        blocks
        if isinstance(blocks, BitMap64)
        else BitMap64(array("Q", blocks.astype(np.uint64).tobytes()))
    )


def decoded_one_by_one(columns: CommandColumns) -> list[TrackingCommand]:
    """Those that the batch decoder leaves to the codec."""
    others = np.flatnonzero(~columns.plain).tolist()
    return [decode(columns.values[row] or b"", TrackingCommand) for row in others]


def run(topic: str, ends: dict[int, int], batch: int, step: Step) -> None:
    """Reads the whole topic, `batch` messages at a time."""
    client = load_settings().kafka_client()
    consumer = Consumer(
        {
            **client,
            "group.id": "bench.limits",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": 4 << 20,
            "queued.max.messages.kbytes": 65536,
            "fetch.queue.backoff.ms": 10,
        }
    )
    left = sum(ends.values())
    say("begun")
    consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
    while left:
        messages = consumer.consume(min(batch, left), 5.0)
        step([message.value() or b"" for message in messages])
        left -= len(messages)
    say("done")
    consumer.close()


def main() -> None:
    """Runs one of the three."""
    parser = argparse.ArgumentParser(description="What folding can cost at least.")
    parser.add_argument("step", choices=("consume", "decode", "fold"))
    parser.add_argument("topic")
    parser.add_argument(
        "ends", type=json.loads, help="by partition, the position behind the last command, as JSON"
    )
    parser.add_argument("--block-size", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=_BATCH)
    parser.add_argument("--save", type=Path, help="folder for the volumes' bitmaps, each in a file")
    given = parser.parse_args()
    fold = Fold(given.block_size)

    def decode_only(values: Sequence[bytes]) -> None:
        columns = decode_columns(values)
        columns.extents_of(np.flatnonzero(columns.plain))
        decoded_one_by_one(columns)

    steps: dict[str, Step] = {"consume": lambda _: None, "decode": decode_only, "fold": fold.take}
    run(
        given.topic,
        {int(partition): end for partition, end in given.ends.items()},
        given.batch,
        steps[given.step],
    )
    if given.save:
        for volume, blocks in fold.united().items():
            (given.save / volume).write_bytes(blocks.serialize())


_BATCH: Final = 2000

if __name__ == "__main__":
    main()
