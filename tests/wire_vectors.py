"""One-line notation for raw commands: `command | data | expected`.

Bytes are hex with spaces; `00*508` repeats a byte. Expected is a verdict (`read-only`, `whole`,
`malformed`, `none` for no extents) or extents in the notation of `notation.extents`, where B stands
for the size of a logical block.
"""

from __future__ import annotations

from notation import extents

from mirrorlog.domain.commands import WireProtocol
from mirrorlog.domain.extents import Extent
from mirrorlog.domain.wire import Interpretation, Verdict, interpret

SIZE = 1 << 30
WORDS = {
    "read-only": Verdict.READ_ONLY,
    "whole": Verdict.WHOLE_VOLUME,
    "malformed": Verdict.MALFORMED,
}


def raw(text: str) -> bytes:
    """Return the bytes: 2a 00 00 00 00 for `2a 00*4`."""
    pairs = (word.partition("*") for word in text.split())
    return b"".join(bytes.fromhex(digits) * int(times or 1) for digits, _, times in pairs)


def vectors(text: str) -> list[str]:
    """Return the lines that hold a vector."""
    return [line.strip() for line in text.splitlines() if "|" in line]


def expected(
    text: str, block_bytes: int, size_bytes: int = SIZE
) -> tuple[Verdict, tuple[Extent, ...]]:
    """Return the verdict and the extents of the right column."""
    if text in WORDS:
        whole = (Extent(0, size_bytes),) if text == "whole" else ()
        return WORDS[text], whole
    words = "" if text == "none" else text.replace("B", str(block_bytes))
    return Verdict.EXTENTS, tuple(extents(words))


def check(protocol: WireProtocol, vector: str, block_bytes: int) -> None:
    """Check that interpreting the vector's command gives what the vector expects."""
    command, data, wanted = (part.strip() for part in vector.partition("#")[0].split("|"))
    result: Interpretation = interpret(
        protocol, raw(command), data=raw(data), logical_block_bytes=block_bytes, size_bytes=SIZE
    )
    assert (result.verdict, result.extents) == expected(wanted, block_bytes)
    assert bool(result.text) is (result.verdict in (Verdict.WHOLE_VOLUME, Verdict.MALFORMED))
