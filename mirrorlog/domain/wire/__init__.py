"""Block addresses from raw commands as they appear on the wire: pure functions, one file per protocol.

A command is one CDB, one submission queue entry of an I/O queue or one NBD request header, without what the transport puts
around it. Its data is what the initiator sent along, and may be left out: it is read where it holds addresses (UNMAP, WRITE
SCATTERED, Dataset Management, Copy: without it the whole volume is dirty) or proves a write of zeros (WRITE SAME).
"""

from __future__ import annotations

from dataclasses import replace

from mirrorlog.domain.commands import WireProtocol
from mirrorlog.domain.wire import nbd, nvme, scsi
from mirrorlog.domain.wire.outcome import Interpretation, Verdict, extent, whole_volume

__all__ = ["Interpretation", "Verdict", "interpret"]


def interpret(
    protocol: WireProtocol, command: bytes, data: bytes, logical_block_bytes: int, size_bytes: int
) -> Interpretation:
    """What one command may change on a volume of `size_bytes`. Never raises; WHOLE_VOLUME has the whole volume as its extent.

    logical_block_bytes: the unit of the addresses of SCSI and NVMe, a power of two; NBD counts bytes.
    """
    match protocol:
        case WireProtocol.SCSI | WireProtocol.NVME:
            known = logical_block_bytes > 0 and logical_block_bytes.bit_count() == 1
            read = scsi.interpret if protocol is WireProtocol.SCSI else nvme.interpret
            result = read(command, data, logical_block_bytes if known else 1, size_bytes)
            if result.extents and not known:
                result = whole_volume(
                    f"logical blocks of {logical_block_bytes} bytes: not a power of two"
                )
        case WireProtocol.NBD:
            result = nbd.interpret(command)
        case WireProtocol.UNKNOWN:
            result = whole_volume("the command's protocol is unknown to this node")
    if result.verdict is Verdict.WHOLE_VOLUME and size_bytes > 0:
        return replace(result, extents=(extent(0, size_bytes, 1),))
    return result
