"""The process that reads file systems: `python -m mirrorlog.consumers.file_names.scan`.

It takes a request on stdin (ScanRequest as JSON) and writes the bytes of an index to stdout. It
limits itself before it reads the first byte of an image: a crash, a loop or a flood of memory in a
library ends this process, and nothing else. An error of its own is one line of JSON on stdout, with
exit code 1.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from mirrorlog.adapters.addresses import open_device, path_of
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd
from mirrorlog.consumers.file_names.index_format import pack_index
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.clock import SystemClock

_CPU_GRACE_S: Final = 5
"""After SIGXCPU, which says why the process ends, until SIGKILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRequest:
    """What to read, and how much it may cost.

    address: of the device, for adapters.addresses.open_device.
    memory_bytes: of address space. cpu_s: of time on a processor.
    """

    address: str
    memory_bytes: int
    cpu_s: int


def main() -> int:
    """Answer one request. Return the exit code."""
    request = ScanRequest(**json.loads(sys.stdin.buffer.readline()))
    limit_process(memory_bytes=request.memory_bytes, cpu_s=request.cpu_s)
    try:
        answer = _scan(request.address)
    except MirrorlogError as error:
        sys.stdout.write(json.dumps(error.as_message()) + "\n")
        return 1
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return 0


def limit_process(*, memory_bytes: int, cpu_s: int) -> None:
    """Limit this process: its memory and time, and it may write no file and dump no core.

    memory_bytes, cpu_s: as in ScanRequest. A lower limit that it has stays as it is.
    """
    limits = (
        (resource.RLIMIT_AS, memory_bytes, 0),
        (resource.RLIMIT_CPU, cpu_s, _CPU_GRACE_S),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, 0, 0),
    )
    for kind, value, grace in limits:
        hard = resource.getrlimit(kind)[1]
        most = value + grace if hard == resource.RLIM_INFINITY else min(value + grace, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (min(value, most), most))


def _scan(address: str) -> bytes:
    from mirrorlog.consumers.file_names.image_reading import CachedDevice
    from mirrorlog.consumers.file_names.map_builder import MapBuilder
    from mirrorlog.consumers.file_names.tsk_reader import map_device

    clock = SystemClock()
    with open_device(address, writable=False) as device:
        began_at_us = clock.now_us()
        builder = MapBuilder(device.size_bytes)
        path = None if is_nbd(address) else str(path_of(address))
        map_device(CachedDevice(device), builder, path)
        return pack_index(builder.result(began_at_us=began_at_us, read_at_us=clock.now_us()))


if __name__ == "__main__":
    sys.exit(main())
