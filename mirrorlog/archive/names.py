"""The names of an archive's objects. Pure.

    manifests/p0003/e000001-1f2e3d4c/00000000000000000042.json
    commands/p0003/e000001-1f2e3d4c/00000000000000000042-00000000000000000977.0a1b2c3d4e5f.parquet
    rows/VOLUME/2026-11-01.p0003.e000001-1f2e3d4c.00000000000000000042-….0a1b2c3d4e5f.parquet
    merges/p0003/e000001-1f2e3d4c/00000000000000000042.json
    merged/VOLUME/p0003.e000001-1f2e3d4c.00000000000000000042-….0007.0a1b2c3d4e5f.parquet

The parts are the partition, the history (its epoch, and the first digits of its id), and the first
and the last position of the range, both included, in 20 digits, so that the order of names is the
order of positions. The last digits of a file are of the SHA-256 of its content: two archivers that
make different files for one range never write the same name. Merged files have a number before it,
in the order of their offsets.

No name has a `=`: readers of hive partitions would take `012` and `12` for one volume, and a name
of digits for a number (docs/archive.md). A volume is named by its folder only for people; the files
hold its name as text.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final
from urllib.parse import quote

from mirrorlog.domain.histories import History
from mirrorlog.domain.volumes import VOLUME_NAME

MANIFESTS: Final = "manifests/"
COMMANDS: Final = "commands/"
ROWS: Final = "rows/"
MERGES: Final = "merges/"
MERGED: Final = "merged/"
_DIGEST_DIGITS: Final = 12
_LONGEST_FOLDER: Final = 200


def history_part(history: History) -> str:
    """Return the part of a name that tells a history from all others of its partition."""
    digest = sha256(f"{history.cluster}/{history.topic}/{history.id}".encode()).hexdigest()
    return f"e{history.epoch:06d}-{digest[:8]}"


def partition_prefix(partition: int) -> str:
    """Return the beginning of the names of all manifests of a partition."""
    return f"{MANIFESTS}p{partition:04d}/"


def manifest_name(partition: int, history: History, *, after: int) -> str:
    """Return the name of the manifest of the range that begins behind position `after`.

    There is at most one such range in a history: that is what makes archivers agree.
    """
    return f"{partition_prefix(partition)}{history_part(history)}/{after + 1:020d}.json"


def merges_prefix(partition: int) -> str:
    """Return the beginning of the names of all merges of a partition."""
    return f"{MERGES}p{partition:04d}/"


def merge_name(partition: int, history: History, *, after: int) -> str:
    """Return the name of the merge that begins behind position `after`: as of manifests."""
    return f"{merges_prefix(partition)}{history_part(history)}/{after + 1:020d}.json"


def first_position_of(manifest: str) -> int:
    """Return the first position of the range of a manifest, by its name."""
    return int(manifest.rpartition("/")[2].removesuffix(".json"))


def commands_name(
    partition: int, history: History, *, after: int, through: int, content: bytes
) -> str:
    """Return the name of the file with the exact commands in `(after, through]`."""
    place = f"p{partition:04d}/{history_part(history)}"
    return f"{COMMANDS}{place}/{_range(after, through)}.{_digest(content)}.parquet"


def rows_name(
    volume: str,
    day: str,
    partition: int,
    history: History,
    *,
    after: int,
    through: int,
    content: bytes,
) -> str:
    """Return the name of the file with the rows of one volume and day (YYYY-MM-DD)."""
    place = f"p{partition:04d}.{history_part(history)}"
    return (
        f"{ROWS}{volume_folder(volume)}/{day}.{place}.{_range(after, through)}"
        f".{_digest(content)}.parquet"
    )


def merged_name(
    volume: str,
    partition: int,
    history: History,
    number: int,
    *,
    after: int,
    through: int,
    content: bytes,
) -> str:
    """Return the name of a merged file. number: in the order of offsets, from 0."""
    place = f"p{partition:04d}.{history_part(history)}"
    return (
        f"{MERGED}{volume_folder(volume)}/{place}.{_range(after, through)}.{number:04d}"
        f".{_digest(content)}.parquet"
    )


def volume_folder(volume: str) -> str:
    """Return the folder of a volume: its name. What can't name a volume gets a name with a `%`.

    A host may name any text as the volume of its command, and the command is archived as it came.
    """
    if VOLUME_NAME.fullmatch(volume):
        return volume
    quoted = "%" + quote(volume, safe="").replace(".", "%2E")
    if len(quoted) <= _LONGEST_FOLDER:
        return quoted
    return "%" + sha256(volume.encode()).hexdigest()


def _range(after: int, through: int) -> str:
    return f"{after + 1:020d}-{through:020d}"


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:_DIGEST_DIGITS]
