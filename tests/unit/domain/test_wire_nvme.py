"""Submission queue entries, written byte by byte (NVM Command Set 1.0c, section 3.2).

They are little-endian, and CDW10 is at byte 40.
"""

from __future__ import annotations

import pytest
from wire_vectors import check, vectors

from mirrorlog.domain.commands import WireProtocol

# entry | data | expected, for any logical block size B
VECTORS = """
01 00*39 45 23 01 00 00*4 03 00 00 00 00*12 |  | 0x12345*B+4*B          # 3.2.6 Write: CDW10-11 address, CDW12 zero-based blocks
01 00*39 00*4 01 00 00 00 ff ff 00 c4 00*12 |  | (1<<32)*B+0x10000*B    # LR, FUA and PRINFO above the blocks change nothing
01 40 07 00 01 00*35 01 00*7 00*16          |  | B+B                    # SGLs, a command id and a namespace
01 02 00*38 01 00*7 00*16                   |  | B+B                    # second of a fused Compare and Write
04 00*39 05 00*7 01 00 00 00 00*12          |  | 5*B+2*B                # 3.2.7 Write Uncorrectable
08 00*39 05 00*7 01 00 00 00 00*12          |  | z5*B+2*B               # 3.2.8 Write Zeroes
08 00*39 05 00*7 01 00 00 02 00*12          |  | d5*B+2*B               # DEAC, CDW12 bit 25
08 00*39 05 00*7 01 00 80 00 00*12          |  | whole                  # NSZ, CDW12 bit 23 (1.1)
09 00*39 00 00 00 00 04 00 00 00 00*16 | 00*4 03 00 00 00 05 00*7 | d5*B+3*B  # 3.2.3 Dataset Management, AD
09 00*39 01 00 00 00 04 00 00 00 00*16 | ff*4 03 00 00 00 05 00*7 00*4 01 00 00 00 09 00*7 | d5*B+3*B d9*B+B  # two ranges
09 00*39 00 00 00 00 04 00 00 00 00*16 | 00*4 03 00 00 00 05 00*7 00*4 01 00 00 00 09 00*7 | d5*B+3*B  # one of a page
09 00*39 00 00 00 00 04 00 00 00 00*16 | 00*4 00 00 00 00 05 00*7 | none  # lengths aren't zero-based
09 00*39 01 00 00 00 04 00 00 00 00*16 | 00*4 03 00 00 00 05 00*7 | whole  # the second is missing
09 00*39 00 00 00 00 04 00 00 00 00*16 |  | whole
09 00*39 00 00 00 00 03 00 00 00 00*16 |  | read-only  # IDR and IDW are hints
19 00*39 07 00*7 00 00 00 00 00*12 | 00*8 ff*8 03 00 00*14 | 7*B+4*B  # 3.2.2 Copy, format 0
19 00*39 07 00*7 01 00 00 00 00*12 | 00*8 ff*8 03 00 00*14 00*8 00*8 ff ff 00*14 | 7*B+0x10004*B  # the sum of two
19 00*39 07 00*7 01 01 00 00 00*12 | 00*8 ff*8 03 00 00*22 00*8 00*8 01 00 00*22 | 7*B+6*B  # format 1: 40 bytes
19 00*39 07 00*7 00 02 00 00 00*12 | 02 00*7 ff*8 03 00 00*14 | 7*B+4*B  # format 2: a namespace in front
19 00*39 07 00*7 00 03 00 00 00*12 | 02 00*7 ff*8 03 00 00*22 | 7*B+4*B  # format 3
19 00*39 07 00*7 00 04 00 00 00*12 | 00*40 | whole  # an unknown format
19 00*39 07 00*7 01 00 00 00 00*12 | 00*8 ff*8 03 00 00*14 | whole  # the second is missing
00*64                                       |  | read-only              # Flush
02 00*63                                    |  | read-only              # 3.2.4 Read
05 00*63                                    |  | read-only              # 3.2.1 Compare
0c 00*63                                    |  | read-only              # 3.2.5 Verify
0d 00*63                                    |  | read-only              # Reservation Register
0e 00*63                                    |  | read-only              # Reservation Report
11 00*63                                    |  | read-only              # Reservation Acquire
15 00*63                                    |  | read-only              # Reservation Release
7a 00*63                                    |  | read-only              # Zone Management Receive
79 00*63                                    |  | whole                  # Zone Management Send
7d 00*63                                    |  | whole                  # Zone Append
1d 00*63                                    |  | whole                  # I/O Management Send
81 00*63                                    |  | whole                  # vendor specific
01 00*62                                    |  | whole                  # cut: a controller had all of it
02                                          |  | read-only              # cut, yet a Read
02 00*63 01                                 |  | whole                  # a second entry behind it
                                            |  | malformed
"""


@pytest.mark.parametrize("block_bytes", [512, 4096])
@pytest.mark.parametrize("vector", vectors(VECTORS))
def test_vector(vector: str, block_bytes: int) -> None:
    check(WireProtocol.NVME, vector, block_bytes)
