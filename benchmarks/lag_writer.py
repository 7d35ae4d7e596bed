"""Writes to one volume at a steady rate, and keeps when each write was acknowledged.

    python benchmarks/lag_writer.py VOLUME WRITES_PER_S SECONDS FOLDER [--uri URI]

Without --uri, it opens the volume through mirrorlog's Python API: the volume is tracked in this
process. With --uri, it is a client of an NBD export. bench_lag.py starts it. It prints `ready`. For
each line on stdin, the number of a pass, it makes the writes of that pass, and prints the number.
When stdin ends, it closes the volume.

In a pass, each write goes to another block, in random order. So a block's contents, the number of
the pass and of the block, say whether that write is there. Acknowledgements are kept in
FOLDER/PASS.npy as rows (block, time). Times are those of the monotonic clock in nanoseconds, which
all processes of the machine share.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.producers import open_volume

BLOCK_BYTES: Final = 4096
_STAMP: Final = struct.Struct("<QQ")
_BURST_S: Final = 0.001
"""Writes that are due within this time are made one after the other."""

Write: TypeAlias = Callable[[int, bytes], object]
"""Writes (offset, data), and returns when the write is acknowledged."""


def contents(number: int, block: int) -> bytes:
    """Return what pass `number` writes to a block."""
    return _STAMP.pack(number, block) * (BLOCK_BYTES // _STAMP.size)


@contextmanager
def opened(volume: str, uri: str | None) -> Iterator[tuple[int, Write]]:
    """Open the volume; give its size in bytes, and what writes to it."""
    if uri is None:
        with open_volume(volume) as tracked:
            yield tracked.size_bytes, lambda offset, data: tracked.pwrite(data, offset)
    else:
        with NbdDevice(parse_nbd_uri(uri), writable=True) as device:
            yield device.size_bytes, device.pwrite


def run_pass(
    number: int, write: Write, size_bytes: int, writes_per_s: float, seconds: float
) -> npt.NDArray[np.int64]:
    """Make the writes of a pass. Return its rows."""
    count = round(writes_per_s * seconds)
    order = np.random.default_rng(number).permutation(size_bytes // BLOCK_BYTES)[:count]
    rows = np.empty((count, 2), np.int64)
    rows[:, 0] = order
    began_s = time.monotonic()
    due_count = 0
    for index, block in enumerate(order.tolist()):
        while index >= due_count:
            due_count = int((time.monotonic() - began_s) * writes_per_s) + 1
            if index >= due_count:
                time.sleep(_BURST_S)
        write(block * BLOCK_BYTES, contents(number, block))
        rows[index, 1] = time.monotonic_ns()
    return rows


def main() -> None:
    """Write until stdin ends."""
    parser = argparse.ArgumentParser(description="Write to a volume at a steady rate.")
    parser.add_argument("volume")
    parser.add_argument("writes_per_s", type=float)
    parser.add_argument("seconds", type=float, help="of each pass")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--uri", help="write to this NBD export")
    arguments = parser.parse_args()
    with opened(arguments.volume, arguments.uri) as (size_bytes, write):
        print("ready", flush=True)
        for line in sys.stdin:
            number = int(line)
            rows = run_pass(number, write, size_bytes, arguments.writes_per_s, arguments.seconds)
            np.save(arguments.folder / f"{number}.npy", rows)
            print(number, flush=True)


if __name__ == "__main__":
    main()
