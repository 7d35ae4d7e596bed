"""Request headers, written byte by byte (NetworkBlockDevice/nbd, doc/proto.md, "Request message").

In order: magic, flags, type, cookie, offset, length.
"""

from __future__ import annotations

import pytest
from wire_vectors import check, vectors

from mirrorlog.domain.commands import WireProtocol

# header | payload | expected
VECTORS = """
25609513 0000 0001 ff*8 0000000000001001 00000200 |       | 0x1001+512         # WRITE: bytes, at any offset
25609513 0001 0001 ff*8 0000000000001000 00000002 | 61 62 | 0x1000+2           # FUA
25609513 0000 0001 ff*8 ffffffffffffff00 ffffffff |       | (2**64-256)+255    # behind any volume: not wrapped
25609513 0000 0001 ff*8 0000000000001000 00000000 |       | none               # no bytes: the specification leaves it open
25609513 0000 0004 ff*8 0000000000001000 ffffffff |       | d0x1000+0xffffffff # TRIM
25609513 0000 0006 ff*8 0000000000001000 00000200 |       | z0x1000+512        # WRITE_ZEROES
25609513 0012 0006 ff*8 0000000000001000 00000200 |       | z0x1000+512        # NO_HOLE, FAST_ZERO
25609513 0000 0000 ff*8 0000000000001000 00000200 |       | read-only          # READ
25609513 0000 0002 ff*8 0000000000000000 00000000 |       | read-only          # DISC
25609513 0000 0003 ff*8 0000000000000000 00000000 |       | read-only          # FLUSH
25609513 0000 0005 ff*8 0000000000001000 00000200 |       | read-only          # CACHE
25609513 0000 0007 ff*8 0000000000001000 00000200 |       | read-only          # BLOCK_STATUS
25609513 0000 0008 ff*8 0000000000001000 00000200 |       | whole              # RESIZE, an experimental extension
25609513 0000 0101 ff*8 0000000000001000 00000200 |       | whole              # types have 16 bits
21e41c71 0020 0001 ff*8 0000000000001000 0000000100000000 | | 0x1000+(1<<32)   # extended WRITE, PAYLOAD_LEN
21e41c71 0000 0004 ff*8 0000000000001000 0000000100000000 | | d0x1000+(1<<32)  # extended TRIM
21e41c71 0000 0006 ff*8 0000000000001000 0000000100000000 | | z0x1000+(1<<32)  # extended WRITE_ZEROES
21e41c71 0020 0006 ff*8 0000000000001000 0000000000000010 | | whole            # its length isn't that of the range
21e41c71 0020 0007 ff*8 0000000000001000 0000000000000010 | | read-only        # BLOCK_STATUS may have a payload
21e41c71 0020 0001 ff*8 0000000000001000 00000200 |       | whole              # extended, and cut
25609513 0000 0001 ff*8 0000000000001000 000002   |       | whole              # cut: the server may have had all of it
25609513 0000 0000 ff*8 0000000000001000 00000200 25609513 | | whole           # a second request behind a READ
67446698 0000 0001 ff*8 0000000000001000 00000200 |       | malformed          # NBD_SIMPLE_REPLY_MAGIC
256095                                            |       | whole
256094                                            |       | malformed
                                                  |       | malformed
"""


@pytest.mark.parametrize("block_bytes", [0, 4096])
@pytest.mark.parametrize("vector", vectors(VECTORS))
def test_vector(vector: str, block_bytes: int) -> None:
    check(WireProtocol.NBD, vector, block_bytes)
