"""Writes random blocks at a steady rate for as long as it lives, for bench_soak.py.

    python benchmarks/soak_writer.py client URI WRITES_PER_S COUNT_FILE
    python benchmarks/soak_writer.py program VOLUME SELDOM WRITES_PER_S COUNT_FILE

`client` is a client of an NBD export. `program` writes through mirrorlog's Python API, and every
5 s it opens the volume SELDOM, too, writes to it once, and closes it. Both flush once a second.
Writes that are late, because the machine was busy, are made up for. COUNT_FILE holds how many
writes were acknowledged, as 8 bytes, little-endian. SIGTERM ends it in order.
"""

from __future__ import annotations

import argparse
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.producers import open_volume

BLOCK_BYTES: Final = 4096
COUNT: Final = struct.Struct("<Q")
_BURST_S: Final = 0.005
_FLUSH_S: Final = 1.0
_SELDOM_S: Final = 5.0


class SteadyWriter:
    """Writes blocks of random places at a rate until `stop` is set.

    write: (offset, data) -> None. flush: makes all that was written durable.
    """

    def __init__(
        self,
        write: Callable[[int, bytes], object],
        flush: Callable[[], object],
        size_bytes: int,
        count_file: Path,
    ) -> None:
        self._write, self._flush, self._blocks = write, flush, size_bytes // BLOCK_BYTES
        self._count_fd = os.open(count_file, os.O_RDWR | os.O_CREAT, 0o644)

    def run(self, writes_per_s: float, stop: threading.Event, each_s: Callable[[], object]) -> None:
        """Write until `stop` is set. each_s: called after each flush."""
        random, began_s, made = Random(1), time.monotonic(), 0
        flush_at_s = began_s + _FLUSH_S
        while not stop.wait(_BURST_S):
            due = int((time.monotonic() - began_s) * writes_per_s)
            while made < due and time.monotonic() < flush_at_s:
                self._write(BLOCK_BYTES * random.randrange(self._blocks), random.randbytes(4096))
                made += 1
            if time.monotonic() >= flush_at_s:
                self._flush()
                os.pwrite(self._count_fd, COUNT.pack(made), 0)
                flush_at_s = time.monotonic() + _FLUSH_S
                each_s()


def run_client(arguments: argparse.Namespace, stop: threading.Event) -> None:
    """Write to an NBD export."""
    with NbdDevice(parse_nbd_uri(arguments.uri), writable=True) as device:
        writer = SteadyWriter(
            device.pwrite, device.flush, device.size_bytes, arguments.count_file
        )  # fmt: skip
        writer.run(arguments.writes_per_s, stop, lambda: None)


def run_program(arguments: argparse.Namespace, stop: threading.Event) -> None:
    """Write through the API."""
    opened_at_s = 0.0

    def write_seldom() -> None:
        nonlocal opened_at_s
        if time.monotonic() - opened_at_s > _SELDOM_S:
            opened_at_s = time.monotonic()
            with open_volume(arguments.seldom) as seldom:
                blocks = seldom.size_bytes // BLOCK_BYTES
                seldom.pwrite(os.urandom(BLOCK_BYTES), BLOCK_BYTES * (int(opened_at_s) % blocks))

    with open_volume(arguments.volume) as volume:
        writer = SteadyWriter(
            lambda offset, data: volume.pwrite(data, offset),
            volume.flush,
            volume.size_bytes,
            arguments.count_file,
        )
        writer.run(arguments.writes_per_s, stop, write_seldom)


def main() -> None:
    """Write until SIGTERM."""
    parser = argparse.ArgumentParser(description="Write to a volume at a steady rate.")
    roles = parser.add_subparsers(required=True)
    client, program = roles.add_parser("client"), roles.add_parser("program")
    client.add_argument("uri")
    program.add_argument("volume")
    program.add_argument("seldom")
    for role, run in ((client, run_client), (program, run_program)):
        role.add_argument("writes_per_s", type=float)
        role.add_argument("count_file", type=Path)
        role.set_defaults(run=run)
    arguments = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    arguments.run(arguments, stop)


if __name__ == "__main__":
    sys.exit(main())
