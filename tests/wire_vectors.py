"""One-line notation for raw commands: `command | data | expected`.

Bytes are hex with spaces; `00*508` repeats a byte. Expected is a verdict (`read-only`, `whole`, `malformed`, `none` for
records without extents) or extents in the notation of `notation.extents`, where B stands for the logical block.
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
    """`2a 00 00*3` → 2a 00 00 00 00."""
    pairs = (word.partition("*") for word in text.split())
    return b"".join(bytes.fromhex(digits) * int(times or 1) for digits, _, times in pairs)


def vectors(text: str) -> list[str]:
    """The lines that hold a vector."""
    return [line.strip() for line in text.splitlines() if "|" in line]


def expected(
    text: str, block_bytes: int, size_bytes: int = SIZE
) -> tuple[Verdict, tuple[Extent, ...]]:
    """What the right column stands for."""
    if text in WORDS:
        whole = (Extent(0, size_bytes),) if text == "whole" else ()
        return WORDS[text], whole
    words = "" if text == "none" else text.replace("B", str(block_bytes))
    return Verdict.EXTENTS, tuple(extents(words))


def check(protocol: WireProtocol, vector: str, block_bytes: int) -> None:
    """The vector holds."""
    command, data, wanted = (part.strip() for part in vector.partition("#")[0].split("|"))
    found: Interpretation = interpret(protocol, raw(command), raw(data), block_bytes, SIZE)
    assert (found.verdict, found.extents) == expected(wanted, block_bytes)
    assert bool(found.text) is (found.verdict in (Verdict.WHOLE_VOLUME, Verdict.MALFORMED))
