"""CDBs, written byte by byte from the field layouts.

SBC-4, clause 5, and SPC-5, clause 6, have the layouts under the commands' names, unless noted
otherwise.
"""

from __future__ import annotations

import pytest
from wire_vectors import SIZE, check, raw, vectors

from mirrorlog.domain.commands import WireProtocol
from mirrorlog.domain.extents import Extent, ExtentKind
from mirrorlog.domain.wire import Verdict, interpret

# CDB | data | expected, for any logical block size B
VECTORS = """
0a 00 00 10 08 00                                  |  | 16*B+8*B               # WRITE(6), SBC-3: address, blocks
0a ff ff ff 01 00                                  |  | 0x1fffff*B+B           # 21 bits of address, a LUN above them (SCSI-2)
0a 00 00 00 00 00                                  |  | 0+256*B                # 0 blocks are 256
2a 00 00 00 10 00 00 00 08 00                      |  | 0x1000*B+8*B           # WRITE(10): 2-5 address, 7-8 blocks
2a e8 ff ff ff ff 1f ff ff 00                      |  | 0xffffffff*B+0xffff*B  # WRPROTECT, FUA and the group change nothing
2a 00 00 00 10 00 00 00 00 00                      |  | none                   # no blocks, not an error
2a 01 00 00 10 00 00 00 08 00                      |  | whole                  # RELADR (SBC-2)
aa 00 00 00 00 02 00 01 00 00 00 00                |  | 2*B+0x10000*B          # WRITE(12): 6-9 blocks
aa 01 00 00 00 02 00 01 00 00 00 00                |  | whole                  # RELADR
8a 00 00 00 00 01 00 00 00 00 00 00 00 08 00 00    |  | (1<<32)*B+8*B          # WRITE(16): 2-9 address, 10-13 blocks
8a 01 00 00 00 01 00 00 00 00 00 00 00 08 00 00    |  | (1<<32)*B+8*B          # byte 1 bit 0 is DLD2 here
2e 00 00 00 00 01 00 00 02 00                      |  | B+2*B                  # WRITE AND VERIFY(10)
ae 00 00 00 00 01 00 00 00 02 00 00                |  | B+2*B                  # WRITE AND VERIFY(12)
8e 00 00*7 01 00 00 00 02 00 00                    |  | B+2*B                  # WRITE AND VERIFY(16)
7f 00*6 18 00 0b 00 00 00*7 05 00*8 00 00 00 03    |  | 5*B+3*B                # WRITE(32): 12-19 address, 28-31 blocks
7f 00*6 18 00 0c 00 00 00*7 05 00*8 00 00 00 03    |  | 5*B+3*B                # WRITE AND VERIFY(32)
7f 00*6 18 00 0e 00 00 00*7 05 00*8 00 00 00 03    |  | 5*B+3*B                # ORWRITE(32)
7f 00*6 18 00 0f 00 00 00*7 05 00*8 00 00 00 03    |  | 5*B+3*B                # WRITE ATOMIC(32)
7f 00*6 18 00 10 00 00 00*7 05 00*8 00 00 00 03    |  | 5*B+3*B                # WRITE STREAM(32)
7f 00*6 18 00 04 00 00 00*7 05 00*8 00 00 00 03    |  | 5*B+3*B                # XDWRITE(32), SBC-2
7f 00*6 18 00 06 00 00 00*7 05 00*8 00 00 00 03    |  | 5*B+3*B                # XPWRITE(32), SBC-3
7f 00*6 18 00 07 00 00 00*7 05 00*8 00 00 00 03    |  | 5*B+3*B                # XDWRITEREAD(32), SBC-3
7f 00*6 18 00 09 00 00 00*7 05 00*8 00 00 00 03    |  | read-only              # READ(32)
7f 00*6 18 00 01 00*22                             |  | whole                  # REBUILD(32), SBC-2
7f 00*6 10 00 0b 00 00 00*7 05 00*4                |  | whole                  # WRITE(32) with another length in byte 7
7f 00*6 18 88 06 00*22                             |  | whole                  # an object device's WRITE
89 00 00*7 07 ff ff ff 04 00 00                    |  | 7*B+4*B                # COMPARE AND WRITE: byte 13 blocks
8b 00 00*7 07 00 00 00 04 00 00                    |  | 7*B+4*B                # ORWRITE(16)
9c 00 00*7 07 ff ff 00 04 00 00                    |  | 7*B+4*B                # WRITE ATOMIC(16): 10-11 boundary, 12-13 blocks
9a 00 00*7 07 ff ff 00 04 00 00                    |  | 7*B+4*B                # WRITE STREAM(16): 10-11 stream
50 00 00 00 00 07 00 00 04 00                      |  | 7*B+4*B                # XDWRITE(10), SBC-2
51 00 00 00 00 07 00 00 04 00                      |  | 7*B+4*B                # XPWRITE(10), SBC-3
53 00 00 00 00 07 00 00 04 00                      |  | 7*B+4*B                # XDWRITEREAD(10), SBC-3
80 00 00*7 07 00 00 00 04 00 00                    |  | whole                  # XDWRITE EXTENDED(16) writes elsewhere, too
3f 00 00 00 00 09 00 02 08 00                      |  | 9*B+B                  # WRITE LONG(10), SBC-3: one block, 7-8 are bytes
3f 40 00 00 00 09 00 00 00 00                      |  | 9*B+B                  # WR_UNCOR
3f 60 00 00 00 09 00 00 00 00                      |  | whole                  # PBLOCK: a physical block
9f 11 00*7 09 00 00 02 08 00 00                    |  | 9*B+B                  # WRITE LONG(16)
9f 51 00*7 09 00 00 00 00 00 00                    |  | 9*B+B                  # WR_UNCOR above the service action
9f 1f 00*7 09 00 00 00 00 00 00                    |  | whole                  # another service action out
41 00 00 00 00 03 00 00 02 00                      |  | 3*B+2*B                # WRITE SAME(10), data unseen
41 08 00 00 00 03 00 00 02 00                      |  | 3*B+2*B                # UNMAP: may write the unseen block instead
41 00 00 00 00 03 00 00 02 00                      | 00*4096 | z3*B+2*B        # a block of zeros
41 08 00 00 00 03 00 00 02 00                      | 00*4096 | d3*B+2*B        # UNMAP
41 18 00 00 00 03 00 00 02 00                      | 00*4096 | d3*B+2*B        # UNMAP and ANCHOR
41 0c 00 00 00 03 00 00 02 00                      | 00*4096 | 3*B+2*B         # PBDATA (SBC-2): addresses in each block
41 08 00 00 00 03 00 00 02 00                      | 00*511 01 | 3*B+2*B       # not zeros (or not a whole block)
41 00 00 00 00 03 00 00 00 00                      |  | 3*B+(1<<30)-3*B        # 0 blocks: to the end of the medium
41 01 00 00 00 03 00 00 02 00                      |  | whole                  # RELADR
93 00 00*7 03 00 00 00 02 00 00                    |  | 3*B+2*B                # WRITE SAME(16)
93 01 00*7 03 00 00 00 02 00 00                    |  | z3*B+2*B               # NDOB: zeros without data
93 09 00*7 03 00 00 00 02 00 00                    |  | d3*B+2*B               # NDOB and UNMAP
93 09 00*7 00 00 00 00 00 00 00                    |  | d0+(1<<30)             # all of the medium
93 09 00 00 00 01 00*4 00 00 00 00 00 00           |  | malformed              # to the end, from behind it
7f 00*6 18 00 0d 09 00 00*7 03 00*8 00 00 00 02    |  | d3*B+2*B               # WRITE SAME(32): flags in byte 10
7f 00*6 18 00 0d 00 00 00*7 03 00*8 00 00 00 02    |  | 3*B+2*B
42 00 00*5 00 18 00 | 00 16 00 10 00*4 00*7 05 00 00 00 03 00*4                        | d5*B+3*B  # UNMAP: 7-8 list length
42 01 00*5 00 28 00 | 00 26 00 20 00*4 00*7 05 00 00 00 03 00*4 00*7 09 00 00 00 01 00*4 | d5*B+3*B d9*B+B  # ANCHOR
42 00 00*5 00 18 00 | 00 16 00 10 00*4 00*7 05 00 00 00 00 00*4                        | none  # no blocks
42 00 00*5 00 18 00 | 00 16 00 18 00*4 00*7 05 00 00 00 03 00*4                        | d5*B+3*B  # part of a 2nd descriptor
42 00 00*5 00 20 00 | 00 26 00 20 00*4 00*7 05 00 00 00 03 00*4 00*7 09 00 00 00 01 00*4 | d5*B+3*B d9*B+B  # the CDB names one of two
42 00 00*5 00 28 00 | 00 26 00 10 00*4 00*7 05 00 00 00 03 00*4 00*7 09 00 00 00 01 00*4 | d5*B+3*B d9*B+B  # the header names one of two
42 00 00*5 00 28 00 | 00 16 00 20 00*4 00*7 05 00 00 00 03 00*4 00*7 09 00 00 00 01 00*4 | d5*B+3*B d9*B+B  # its first length alone does
42 00 00*5 00 18 00 | 00 16 00 0f 00*4 00*7 05 00 00 00 03 00*4                        | d5*B+3*B  # the header names no whole one
42 00 00*5 00 00 00 | 00 16 00 10 00*4 00*7 05 00 00 00 03 00*4                        | d5*B+3*B  # the CDB names none
42 00 00*5 00 07 00 | 00 16 00 10 00*4 00*7 05 00 00 00 03 00*4                        | d5*B+3*B  # the CDB names less than a header
42 00 00*5 00 18 00 | 00 26 00 20 00*4 00*7 05 00 00 00 03 00*4                        | whole  # the header names two, one came
42 00 00*5 00 18 00 | 00 26 00 10 00*4 00*7 05 00 00 00 03 00*4                        | whole  # its first length names two
42 00 00*5 00 00 00 | 00 16 00 10 00*4                                                 | whole  # the header names one, none came
42 00 00*5 00 18 00 | 00 16 00 10 00*4 00*7 05 00 00 00 03                             | whole  # list cut off
42 00 00*5 00 18 00 |                                                                  | whole  # list not sent along
42 00 00*5 00 08 00 | 00 06 00 00 00*4                                                 | none
42 00 00*5 00 00 00 |                                                                  | none  # no list, not an error
42 00 00*5 00 07 00 | 00*7                                                             | malformed  # shorter than its header
42 00 00*5 00 01 00 | 00 16 00 00 00*4                                                 | whole  # the same, and its first length names one
42 00 00*5 00 07 00 |                                                                  | whole  # shorter than its header, data unseen
9f 12 00 00 00 01 00 00 00 01 00 00 00 03 00 00 | 00*32 00*7 05 00 00 00 03 00*20 | 5*B+3*B # WRITE SCATTERED(16): 8-9 count
9f 12 00 00 00 01 00 00 00 02 00 00 00 03 00 00 | 00*32 00*7 05 00 00 00 03 00*20 | whole   # the second is missing
9f 12 00 00 00 01 00 00 00 00 00 00 00 00 00 00 |                                 | none
7f 00*6 18 00 11 00 00 00 01 00 00 00 01 00*14  | 00*32 00*7 05 00 00 00 03 00*20 | 5*B+3*B # WRITE SCATTERED(32): 16-17
04 00 00 00 00 00                                  |  | whole                  # FORMAT UNIT
07 00 00 00 00 00                                  |  | whole                  # REASSIGN BLOCKS
48 03 00*8                                         |  | whole                  # SANITIZE
83 00 00*14                                        |  | whole                  # EXTENDED COPY(LID1)
83 10 00*14                                        |  | whole                  # POPULATE TOKEN
83 11 00*14                                        |  | whole                  # WRITE USING TOKEN
84 00 00*14                                        |  | read-only              # RECEIVE COPY STATUS(LID1)
85 00 00*14                                        |  | whole                  # ATA PASS-THROUGH(16)
94 04 00*14                                        |  | whole                  # RESET WRITE POINTER
95 00 00*14                                        |  | read-only              # REPORT ZONES
9e 10 00*14                                        |  | read-only              # READ CAPACITY(16)
9e 12 00*14                                        |  | read-only              # GET LBA STATUS(16)
9e 18 00*14                                        |  | whole                  # REMOVE ELEMENT AND TRUNCATE, though it is "in"
9e 00 00*14                                        |  | whole
a3 0a 00*10                                        |  | read-only              # REPORT TARGET PORT GROUPS
a4 0a 00*10                                        |  | read-only              # SET TARGET PORT GROUPS
a4 1f 00*10                                        |  | whole                  # vendor specific
12 01 83 00 ff 00                                  |  | read-only              # INQUIRY
28 00 00 00 10 00 00 00 08 00                      |  | read-only              # READ(10)
8f 02 00*14                                        |  | read-only              # VERIFY(16) with BYTCHK
35 00 00*8                                         |  | read-only              # SYNCHRONIZE CACHE(10)
c1 00 00*8                                         |  | whole                  # vendor specific
15 10 00 00 00 00                                  |  | read-only              # MODE SELECT(6) without a list
15 10 00 00 18 00             | 00 00 00 00 08 12 00*18 | read-only           # byte 3 of its header: no block descriptors
15 10 00 00 0c 00             | 00 00 00 08 00*5 00 10 00 | whole             # a new block length
15 10 00 00 00 00             | 00 00 00 08 00*5 00 10 00 | whole             # its length is 0, and a list came
15 10 00 00 00 00             | 00*4                    | read-only
15 10 00 00 18 00             |                         | whole
55 10 00*5 00 10 00           | 00*8 08 12 00*6         | read-only           # MODE SELECT(10): bytes 6-7 of its header
55 10 00*5 00 10 00           | 00*7 08 00*8            | whole
1b 00 00 00 01 00                                  |  | read-only              # START STOP UNIT
1b 00 00 00 02 00                                  |  | whole                  # LOEJ
1d 04 00 00 00 00                                  |  | read-only              # SEND DIAGNOSTIC, default self-test
1d 05 00 00 00 00                                  |  | whole                  # UNITOFFL
1d 04 00 00 00 00                                  | 40 00 00 01 00 | whole     # its length is 0, and parameters came
2a 00 00 00 10 00 00 00 08 00 00*6                 |  | 0x1000*B+8*B           # in a transport's field of 16 bytes
0a 00 00 10 08 00 ff*10                            |  | 16*B+8*B               # and what follows there means nothing
2a 00 00 00 10 00 00 00 08 00 00*22                |  | 0x1000*B+8*B
28 00 00 00 10 00 00 00 08 00 00*6 2a 00 00 00     |  | whole                  # a second CDB behind it
2a 00 00 00 10 00 00 00 08                         |  | whole                  # cut: a device had all of it
9f                                                 |  | whole
7f 00*6 18 00                                      |  | whole
28                                                 |  | read-only              # cut, yet a READ
                                                   |  | malformed
"""


@pytest.mark.parametrize("block_bytes", [512, 4096])
@pytest.mark.parametrize("vector", vectors(VECTORS))
def test_vector(vector: str, block_bytes: int) -> None:
    check(WireProtocol.SCSI, vector, block_bytes)


def test_an_address_beyond_64_bits_never_wraps() -> None:
    cdb = raw("8a 00 ff*8 00 00 00 08 00 00")
    assert interpret(
        WireProtocol.SCSI, cdb, data=b"", logical_block_bytes=512, size_bytes=SIZE
    ).extents == (Extent(2**64 - 2, 1),)
    unmap, data = (
        raw("42 00 00*5 00 28 00"),
        raw("00 26 00 20 00*4 00*7 05 00 00 00 03 00*4 ff*12 00*4"),
    )
    result = interpret(
        WireProtocol.SCSI, unmap, data=data, logical_block_bytes=512, size_bytes=SIZE
    )
    assert result.extents == tuple(
        Extent(o, n, ExtentKind.DISCARD) for o, n in ((2560, 1536), (2**64 - 2, 1))
    )


@pytest.mark.parametrize("block_bytes", [0, -512, 520])
def test_with_an_impossible_block_size_a_write_is_the_whole_volume_and_a_read_is_read_only(
    block_bytes: int,
) -> None:
    write, read = raw("2a 00*7 01 00"), raw("28 00*7 01 00")
    result = interpret(
        WireProtocol.SCSI, write, data=b"", logical_block_bytes=block_bytes, size_bytes=SIZE
    )
    assert (result.verdict, result.extents) == (Verdict.WHOLE_VOLUME, (Extent(0, SIZE),))
    assert (
        interpret(
            WireProtocol.SCSI, read, data=b"", logical_block_bytes=block_bytes, size_bytes=SIZE
        ).verdict
        is Verdict.READ_ONLY
    )


def test_a_protocol_newer_than_this_node_is_the_whole_volume() -> None:
    assert (
        interpret(
            WireProtocol.UNKNOWN, b"x", data=b"", logical_block_bytes=512, size_bytes=SIZE
        ).verdict
        is Verdict.WHOLE_VOLUME
    )
