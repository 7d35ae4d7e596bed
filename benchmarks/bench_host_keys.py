"""Measures what the codes of host keys cost: CPU seconds a command, at the host and at the node.

    python benchmarks/bench_host_keys.py [--commands 20k] [--repeat 5]

Commands of one extent, and of 500, in batches of 500. *host*: a code is made for each. *node*: the
codes of a batch are checked as BatchFolder does before it folds an authenticated volume in bulk.
*decode*: the batch is decoded, for comparison; every node does that. The last line of stdout is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Final

from bench_node import parse_count
from results import machine

from mirrorlog.codec.command_columns import decode_columns
from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.domain.host_keys import CommandSigner, Holder, HostKey, HostKeys, session_of
from mirrorlog.domain.volumes import Volume
from mirrorlog.streams.fold.authenticity import Authenticity
from mirrorlog.streams.fold.batch import EventBatch

TOPIC: Final = "mirrorlog.commands"
BATCH: Final = 500
KEY: Final = HostKey("east/1", bytes(range(32)))
KEYS: Final = HostKeys({KEY.id: KEY}, {"east": Holder("east", ("vol-*",))})
SESSION: Final = session_of("east", bytes(8))


def commands(size: int) -> list[bytes]:
    """Return a batch of commands of `size` extents, as their bytes."""
    return [
        encode(
            TrackingCommand(
                volume="vol-1",
                generation="11111111-1111-4111-8111-111111111111",
                host="host-vol-1",
                session=SESSION,
                sequence=sequence,
                kind=CommandKind.WRITES,
                extents=ExtentColumns.of(
                    [Extent(4096 * (sequence * size + number), 4096) for number in range(size)]
                ),
                first_at_us=1,
                last_at_us=2,
                acknowledged_position=sequence,
            )
        )
        for sequence in range(BATCH)
    ]


def cpu_us(call: Callable[[], object], times: int) -> float:
    """Return the CPU microseconds of the process for one command."""
    began_s = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began_s) / times / BATCH * 1e6


def cases(size: int) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name; each call handles one batch."""
    values, signer = commands(size), CommandSigner(TOPIC, KEY)
    headers = [signer.headers(TOPIC, 0, b"vol-1", value) for value in values]
    batch = EventBatch(TOPIC, 0, list(range(BATCH)), [b"vol-1"] * BATCH, values, headers=headers)
    columns, authenticity = decode_columns(values), Authenticity(KEYS)
    volume = Volume(
        volume="vol-1",
        generation="11111111-1111-4111-8111-111111111111",
        size_bytes=1 << 40,
        block_size=4096,
        partition=0,
        origin_position=-1,
        initially_zeroed=True,
        primary="file:///p",
        authenticated_after=-1,
    )
    assert authenticity.unauthentic_volumes(batch, columns, {"vol-1": volume}) == set()
    return {
        "host": lambda: [signer.headers(TOPIC, 0, b"vol-1", value) for value in values],
        "node": lambda: authenticity.unauthentic_volumes(batch, columns, {"vol-1": volume}),
        "decode": lambda: decode_columns(values),
    }


def main() -> None:
    """Measure every case, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=parse_count, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    times = max(1, options.commands // BATCH)
    measured = {
        f"{size}_extents": {
            name: round(statistics.median(cpu_us(call, times) for _ in range(options.repeat)), 2)
            for name, call in cases(size).items()
        }
        for size in (1, 500)
    }
    print(json.dumps({"cpu_us_per_command": measured, "machine": machine()}))


if __name__ == "__main__":
    main()
