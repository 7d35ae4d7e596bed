"""A request of a recording, and what the readers of all formats share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mirrorlog.domain.extents import MAX_BYTE

SECTOR_BYTES: Final = 512
VOLUME_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
MAX_TIME_US: Final = (1 << 63) - 1


class RequestKind(StrEnum):
    """The kind of a request. The values are the words of mirrorlog's own format."""

    READ = "read"
    WRITE = "write"
    ZERO = "zero"
    DISCARD = "discard"
    FLUSH = "flush"


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """A request as it was recorded.

    offset, length: bytes, whose sum is at most MAX_BYTE. Both are 0 for a flush; other requests
    have at least one byte.
    time_us: microseconds since the epoch of the recording's format. Times may go back: only the
    order of the requests counts.
    """

    volume: str
    kind: RequestKind
    offset: int
    length: int
    time_us: int

    @property
    def end(self) -> int:
        """Return the first byte behind the request."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A format: how its records are framed, recognized and read.

    recognizes: returns whether the first bytes of a file (decompressed) are of this format.
    read: yields the requests in the records. Its second argument is the name of the volume if the
    recording doesn't name it. It raises MalformedRecord for the record that it took last.
    record_bytes: the size of a record; 0 if a record is a line of text.
    compressed: the format needs compression for its checksum, so a plain file isn't of this format.
    """

    name: str
    recognizes: Callable[[bytes], bool]
    read: Callable[[Iterator[bytes], str], Iterator[TracedRequest]]
    record_bytes: int = 0
    compressed: bool = False


class MalformedRecord(Exception):
    """A record violates its format. The reader that frames the records adds file, record and byte.

    next: what the user can do, if it isn't to check the file.
    """

    def __init__(self, what: str, *, next: str = "") -> None:
        super().__init__(what)
        self.next = next


def transfer(
    volume: str, kind: RequestKind, *, offset: int, length: int, time_us: int
) -> Iterator[TracedRequest]:
    """Yield the request. MalformedRecord if it ends above MAX_BYTE or its time is too large.

    Yield nothing for a request of no bytes, which SCSI allows (SBC-4, transfer length 0).
    """
    if offset + length > MAX_BYTE:
        raise MalformedRecord(
            f"a {kind} of {length} bytes at byte {offset} ends above byte {MAX_BYTE}"
        )
    if length:
        yield TracedRequest(volume, kind, offset, length, _checked_time_us(time_us))


def flush_request(volume: str, time_us: int) -> TracedRequest:
    """Return a flush. MalformedRecord if its time is too large."""
    return TracedRequest(volume, RequestKind.FLUSH, 0, 0, _checked_time_us(time_us))


def _checked_time_us(time_us: int) -> int:
    if time_us > MAX_TIME_US:
        raise MalformedRecord(f"time {time_us} µs is above {MAX_TIME_US} µs")
    return time_us


def parse_number(field: bytes, name: str) -> int:
    """Return the number that `field` holds in decimal digits. `name` is for the error."""
    if not field.isdigit() or len(field) > 20:
        raise MalformedRecord(f"{name} {quoted(field)} isn't a whole number from 0 on")
    return int(field)


def split_fields(line: bytes, names: tuple[str, ...]) -> list[bytes]:
    """Return the fields of a CSV line. MalformedRecord unless there is one for each name."""
    values = line.split(b",")
    if len(values) != len(names):
        raise MalformedRecord(
            f"{quoted(line)} has {len(values)} of the {len(names)} fields {', '.join(names)}"
        )
    return values


def quoted(field: bytes) -> str:
    """Return the beginning of a field as one line of plain text, in quotes."""
    return repr(field[:40])[1:]


def matches_any_line(pattern: re.Pattern[bytes]) -> Callable[[bytes], bool]:
    """Return a test for a text format: whether one of the first 64 lines matches `pattern`.

    The first line alone may be malformed.
    """
    return lambda head: any(
        pattern.fullmatch(line.rstrip(b"\r")) for line in head.split(b"\n")[:64]
    )
