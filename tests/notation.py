"""One-line notation shared by tests: extents, volumes, commands, records."""

from __future__ import annotations

import numpy as np

from mirrorlog.codec.events import encode
from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import Extent, ExtentColumns, ExtentKind
from mirrorlog.domain.promotions import PromotionCommand
from mirrorlog.domain.recorded_writes import RecordedWrites
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.streams import Message
from mirrorlog.tracking_log.records import LogRecord

GENERATION = "11111111-1111-4111-8111-111111111111"
OTHER_GENERATION = "22222222-2222-4222-8222-222222222222"
PRIMARY_ID = "33333333-3333-4333-8333-333333333333"
SHORT_KINDS = {
    CommandKind.SESSION_OPEN: "open",
    CommandKind.SESSION_CLOSE: "close",
    CommandKind.HEARTBEAT: "beat",
    CommandKind.MARK_DIRTY: "dirty",
    CommandKind.WRITES: "writes",
}
KINDS = {"w": ExtentKind.WRITE, "z": ExtentKind.ZERO, "d": ExtentKind.DISCARD}


def flipped(blocks: BlockSet, block: int) -> BlockSet:
    """Return the set without the block if it holds it, otherwise with it."""
    one = BlockSet([block])
    return blocks - one if block in blocks else blocks | one


def extents(text: str) -> ExtentColumns:
    """Return extents in notation: `0+4096 z8192+4096` is a write and a zero.

    A number may be a Python expression without spaces.
    """
    rows = []
    for word in text.split():
        kind, rest = (word[0], word[1:]) if word[0] in KINDS else ("w", word)
        offset, length = rest.split("+")
        rows.append(Extent(_number(offset), _number(length), KINDS[kind]))
    return ExtentColumns.of(rows)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else int(eval(text))


def volume(name: str = "v", size_bytes: int = 1 << 20, **more: object) -> Volume:
    """Return a volume with 4 KiB blocks in partition 0, whose origin is the first position."""
    fields = {
        "generation": GENERATION,
        "size_bytes": size_bytes,
        "block_size": 4096,
        "partition": 0,
        "origin_position": -1,
        "initially_zeroed": True,
        "primary": "memory:primary",
    }
    return Volume(volume=name, **(fields | more))  # type: ignore[arg-type]


def command(text: str = "", name: str = "v", **more: object) -> TrackingCommand:
    """Return a command for volume `name` with the extents in `text`."""
    fields = {
        "generation": GENERATION,
        "host": "h",
        "session": "s",
        "sequence": 0,
        "kind": CommandKind.WRITES,
        "first_at_us": 1,
        "last_at_us": 2,
    }
    return TrackingCommand(
        volume=name,
        extents=extents(text),
        **(fields | more),  # type: ignore[arg-type]
    )


def recorded(text: str, name: str = "v", **more: object) -> RecordedWrites:
    """Return a command of a recording: `7@0+4096` is a write of the microsecond 7."""
    times_us, rows = zip(*(word.split("@") for word in text.split()), strict=True)
    times = np.array([int(at_us) for at_us in times_us], np.int64)
    fields = {
        "generation": GENERATION,
        "host": "import:msr:1",
        "session": "s",
        "sequence": 0,
        "kind": CommandKind.WRITES,
    }
    return RecordedWrites(
        volume=name,
        extents=extents(" ".join(rows)),
        first_at_us=int(times.min()),
        last_at_us=int(times.max()),
        times_us=times,
        **(fields | more),  # type: ignore[arg-type]
    )


def message(position: int, content: TrackingCommand | bytes | None, partition: int = 0) -> Message:
    """Return an event of the commands topic."""
    value = encode(content) if isinstance(content, TrackingCommand) else content
    return Message("mirrorlog.commands", partition, position, b"v", value)


def record(text: str, blocks: str = "", name: str = "v") -> LogRecord:
    """Return a record in notation: `3..7` covers (3, 7], `3..7/1of2` is its second part.

    blocks: `1 2 5-9`.
    """
    span, _, part = text.partition("/")
    after, through = (int(position) for position in span.split(".."))
    number, _, parts = part.partition("of")
    changed = BlockSet()
    for word in blocks.split():
        first, _, last = word.partition("-")
        changed.add_range(int(first), int(last or first) + 1)
    return LogRecord(
        volume=name,
        generation=GENERATION,
        tier=0,
        after=after,
        through=through,
        block_size=4096,
        changed=changed,
        zeroed=BlockSet(),
        first_at_us=1,
        last_at_us=2,
        commands=1,
        writes=1,
        bytes_written=4096,
        hosts=("h",),
        part=int(number or 0),
        parts=int(parts or 1),
    )


def site_progress(**more: object) -> SiteProgress:
    """Return a report of site `s` on volume `v`, which has applied nothing."""
    fields: dict[str, object] = {
        "site": "s",
        "volume": "v",
        "generation": GENERATION,
        "state": SiteState.SETTLING,
        "rung": None,
        "applied_position": None,
        "consistent_position": None,
        "watermark": None,
        "behind_blocks": 0,
        "behind_bytes": 0,
        "lag_s": 0.0,
        "blocks_copied": 0,
        "bytes_copied": 0,
        "at_us": 0,
    }
    return SiteProgress(**(fields | more))  # type: ignore[arg-type]


def backup_report(**more: object) -> BackupReport:
    """Return a report of the backups of volume `v`, of which there is no point yet."""
    fields: dict[str, object] = {
        "repository": GENERATION,
        "address": "/backups",
        "volume": "v",
        "generation": GENERATION,
        "history_id": None,
        "position": 7,
        "host": "machine",
        "at_us": 50_000_000,
    }
    return BackupReport(**(fields | more))  # type: ignore[arg-type]


def promotion(site: str = "b", name: str = "v", **more: object) -> PromotionCommand:
    """Return a command that promotes the secondary of `site`, which parted behind position 5."""
    fields: dict[str, object] = {
        "generation": GENERATION,
        "host": "h",
        "session": "p",
        "sequence": -1,
        "kind": CommandKind.PROMOTE,
        "first_at_us": 3,
        "last_at_us": 3,
        "new_generation": OTHER_GENERATION,
        "site": site,
        "primary": f"memory:{site}",
        "primary_id": PRIMARY_ID,
        "parted_position": 5,
    }
    return PromotionCommand(
        volume=name,
        extents=extents(""),
        **(fields | more),  # type: ignore[arg-type]
    )
