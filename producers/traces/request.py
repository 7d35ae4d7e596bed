"""One request of a recording, and what the readers of all formats share."""

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
    """What a request asks of its volume. The values are the words of mirrorlog's own format."""

    READ = "read"
    WRITE = "write"
    ZERO = "zero"
    DISCARD = "discard"
    FLUSH = "flush"


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """One request as recorded. A flush is a barrier: its offset and length are 0, all others have at least one byte.

    offset and length are bytes, their sum at most MAX_BYTE. time_us is what the recording says, counted from whenever
    its format counts; it may go back, for the order of the requests is the only order.
    """

    volume: str
    kind: RequestKind
    offset: int
    length: int
    time_us: int

    @property
    def end(self) -> int:
        """The first byte behind the request."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """One format: how its records are framed, how it is recognised, and how they are read.

    record_bytes: bytes of each record; 0 where a record is a line of text.
    recognizes:   whether the first bytes of a file (decompressed) are of this format.
    read:         the requests in the records, given also the name for a volume whose recording doesn't name it. It
                  raises MalformedRecord for the record that it took last.
    sealed:       the format counts on compression for its checksum, so a plain file isn't of it.
    """

    name: str
    recognizes: Callable[[bytes], bool]
    read: Callable[[Iterator[bytes], str], Iterator[TracedRequest]]
    record_bytes: int = 0
    sealed: bool = False


class MalformedRecord(Exception):
    """A record isn't what its format says. Whoever frames the records adds file, record and byte.

    next: what to do about it, where it is something else than to check the file.
    """

    def __init__(self, what: str, *, next: str = "") -> None:
        super().__init__(what)
        self.next = next


def transfer(
    volume: str, kind: RequestKind, offset: int, length: int, time_us: int
) -> Iterator[TracedRequest]:
    """The request, its address checked; nothing where it moves no bytes, as SCSI allows (SBC-4, transfer length 0)."""
    if offset + length > MAX_BYTE:
        raise MalformedRecord(
            f"a {kind} of {length} bytes at byte {offset} ends above byte {MAX_BYTE}"
        )
    if length:
        yield TracedRequest(volume, kind, offset, length, _checked_time_us(time_us))


def flush_request(volume: str, time_us: int) -> TracedRequest:
    """A flush."""
    return TracedRequest(volume, RequestKind.FLUSH, 0, 0, _checked_time_us(time_us))


def _checked_time_us(time_us: int) -> int:
    if time_us > MAX_TIME_US:
        raise MalformedRecord(f"time {time_us} µs is above {MAX_TIME_US} µs")
    return time_us


def parse_number(field: bytes, name: str) -> int:
    """The whole number from 0 on that `field` holds in decimal digits."""
    if not field.isdigit() or len(field) > 20:
        raise MalformedRecord(f"{name} {quoted(field)} isn't a whole number from 0 on")
    return int(field)


def split_fields(line: bytes, names: tuple[str, ...]) -> list[bytes]:
    """The fields of a CSV line, as many as there are names."""
    found = line.split(b",")
    if len(found) != len(names):
        raise MalformedRecord(
            f"{quoted(line)} has {len(found)} of the {len(names)} fields {', '.join(names)}"
        )
    return found


def quoted(field: bytes) -> str:
    """The beginning of a field as one line of plain text, in quotes."""
    return repr(field[:40])[1:]


def matches_any_line(pattern: re.Pattern[bytes]) -> Callable[[bytes], bool]:
    """Recognises a text format by one line that has its shape: the first line may be the broken one."""
    return lambda head: any(
        pattern.fullmatch(line.rstrip(b"\r")) for line in head.split(b"\n")[:64]
    )
