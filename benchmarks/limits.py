"""The minimum cost of folding in three steps: consume; also decode; also union.

This is a program under test of bench_node.py. It has no table, no changelog and no statuses, and it
commits nothing. Its batches have as many commands as a flush of the node has at most.
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
from mirrorlog.domain.bitmaps import BlockSet, touched, union
from mirrorlog.domain.block_arrays import Blocks, blocks_of
from mirrorlog.domain.block_sets import BitMap64
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.settings import load_settings

Step = Callable[[Sequence[bytes]], None]


def print_line(message_type: str, **fields: object) -> None:
    """Print a JSON line."""
    print(json.dumps({"message_type": message_type, "at_s": time.time(), **fields}), flush=True)


class Fold:
    """Makes a set of blocks for each volume of each batch, as the node does.

    The sets are united when the clock has stopped.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._sets: dict[str, list[Blocks | BlockSet]] = defaultdict(list)

    def add(self, values: Sequence[bytes]) -> None:
        """Add a batch of encoded commands."""
        columns = decode_columns(values)
        for number, sender in enumerate(columns.senders):
            self._add(sender.volume, columns.extents_of(np.flatnonzero(columns.sender == number)))
        for command in decoded_one_by_one(columns):
            self._add(command.volume, command.extents)

    def _add(self, volume: str, extents: ExtentColumns) -> None:
        blocks = blocks_of(extents, self._block_size)
        self._sets[volume].append(touched(extents, self._block_size) if blocks is None else blocks)

    def united(self) -> dict[str, BlockSet]:
        """Return all blocks by volume."""
        return {volume: union(map(_as_bitmap, sets)) for volume, sets in self._sets.items()}


def _as_bitmap(blocks: Blocks | BlockSet) -> BlockSet:
    return (
        blocks
        if isinstance(blocks, BlockSet)
        else BlockSet(array("Q", blocks.astype(np.uint64).tobytes()))
    )


def decoded_one_by_one(columns: CommandColumns) -> list[TrackingCommand]:
    """Return the commands that the batch decoder leaves to the codec."""
    others = np.flatnonzero(~columns.plain).tolist()
    return [decode(columns.values[row] or b"", TrackingCommand) for row in others]


def run(topic: str, ends: dict[int, int], batch: int, step: Step) -> None:
    """Read the whole topic, and pass up to `batch` messages at a time to `step`."""
    settings = load_settings()
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            **settings.kafka,
            "group.id": "bench.limits",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": 4 << 20,
            "queued.max.messages.kbytes": 65536,
            "fetch.queue.backoff.ms": 10,
            "isolation.level": "read_uncommitted",
        }
    )
    remaining = sum(ends.values())
    print_line("begun")
    consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
    while remaining:
        messages = consumer.consume(min(batch, remaining), 5.0)
        step([message.value() or b"" for message in messages])
        remaining -= len(messages)
    print_line("done")
    consumer.close()


def main() -> None:
    """Run one of the three steps."""
    parser = argparse.ArgumentParser(description="Measure the minimum cost of folding.")
    parser.add_argument("step", choices=("consume", "decode", "fold"))
    parser.add_argument("topic")
    parser.add_argument(
        "ends", type=json.loads, help="the position behind the last command by partition, as JSON"
    )
    parser.add_argument("--block-size", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=_BATCH)
    parser.add_argument("--save", type=Path, help="write the volumes' bitmaps to this folder")
    arguments = parser.parse_args()
    fold = Fold(arguments.block_size)

    def decode_only(values: Sequence[bytes]) -> None:
        columns = decode_columns(values)
        columns.extents_of(np.flatnonzero(columns.plain))
        decoded_one_by_one(columns)

    steps: dict[str, Step] = {"consume": lambda _: None, "decode": decode_only, "fold": fold.add}
    run(
        arguments.topic,
        {int(partition): end for partition, end in arguments.ends.items()},
        arguments.batch,
        steps[arguments.step],
    )
    if arguments.save:
        for volume, blocks in fold.united().items():
            (arguments.save / volume).write_bytes(BitMap64(blocks.to_array()).serialize())


_BATCH: Final = 2000

if __name__ == "__main__":
    main()
