"""Finds the block addresses in raw commands as they appear on the wire. All functions are pure.

A command is one CDB, one submission queue entry of an I/O queue, or one NBD request header, without
the transport's own headers. The data is what the initiator sent with the command, and may be left
out. It is read if it holds addresses (UNMAP, WRITE SCATTERED, Dataset Management, Copy), and
without it the whole volume is then dirty. It is also read if it can prove a write of zeros (WRITE
SAME).

- outcome.py: what a command does to the volume's blocks.
- scsi.py, nvme.py, nbd.py: one protocol each.
"""

from __future__ import annotations

from dataclasses import replace

from mirrorlog.domain.commands import WireProtocol
from mirrorlog.domain.wire import nbd, nvme, scsi
from mirrorlog.domain.wire.outcome import Interpretation, Verdict, extent, whole_volume

__all__ = ["Interpretation", "Verdict", "interpret"]


def interpret(
    protocol: WireProtocol,
    command: bytes,
    *,
    data: bytes,
    logical_block_bytes: int,
    size_bytes: int,
) -> Interpretation:
    """Return what one command may change on a volume of `size_bytes` bytes. It never raises.

    logical_block_bytes: the unit of addresses in SCSI and NVMe, a power of two. NBD counts bytes.
    The extent of WHOLE_VOLUME is the whole volume.
    """
    match protocol:
        case WireProtocol.SCSI | WireProtocol.NVME:
            is_valid = logical_block_bytes > 0 and logical_block_bytes.bit_count() == 1
            interpreter = scsi.interpret if protocol is WireProtocol.SCSI else nvme.interpret
            result = interpreter(command, data, logical_block_bytes if is_valid else 1, size_bytes)
            if result.extents and not is_valid:
                result = whole_volume(
                    f"the size of logical blocks, {logical_block_bytes} bytes, isn't a power of two"
                )
        case WireProtocol.NBD:
            result = nbd.interpret(command)
        case WireProtocol.UNKNOWN:
            result = whole_volume("the command's protocol is unknown to this node")
    if result.verdict is Verdict.WHOLE_VOLUME and size_bytes > 0:
        return replace(result, extents=(extent(0, size_bytes, unit_bytes=1),))
    return result
