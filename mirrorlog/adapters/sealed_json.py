"""Small files of JSON with a checksum, of which any damage shows.

Format: one line of JSON (RFC 8259), keys sorted, without spaces, in ASCII. It holds the fields of
the document, and `crc32`: the CRC-32 (ISO 3309, zlib.crc32) of the line without its `crc32`. A
reader makes the line of what it has read again, and compares all bytes: this covers the checksum,
and everything about which a JSON parser is lenient.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from mirrorlog.json_text import parse_json


def sealed_line(document: Mapping[str, object]) -> bytes:
    """Return the line of a document, which names its `format` and `version`."""
    return _line({**document, "crc32": zlib.crc32(_line(document))})


def unsealed(content: bytes) -> dict[str, Any]:
    """Return the document of a line. Raise ValueError, which says why, if the line is damaged."""
    try:
        document = parse_json(content)
    except ValueError:
        raise ValueError("it isn't a line of JSON") from None
    if not isinstance(document, dict) or "crc32" not in document:
        raise ValueError("it has no checksum")
    del document["crc32"]
    try:
        is_intact = sealed_line(document) == content
    except RecursionError:
        is_intact = False
    if not is_intact:
        raise ValueError("it fails its checksum")
    return document


def _line(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"
