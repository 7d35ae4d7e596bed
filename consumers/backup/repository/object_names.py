"""The names of a repository's objects. Pure.

mirrorlog-backups.json
volumes/VOLUME/20261128T231501Z-0a1b2c3d.qcow2
volumes/VOLUME/20261128T231501Z-0a1b2c3d.1.json
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote

from mirrorlog.archive.names import volume_folder
from mirrorlog.domain.volumes import VOLUME_NAME

HEADER: Final = "mirrorlog-backups.json"
VOLUMES: Final = "volumes/"
POINT: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_MANIFEST: Final = re.compile(rf"({POINT.pattern})\.([1-9]\d{{0,8}})\.json")


def point_name(written_at_us: int, digits: int) -> str:
    """Return the name of a point. digits: 32 random bits."""
    written = datetime.fromtimestamp(written_at_us // 1_000_000, UTC)
    return f"{written:%Y%m%dT%H%M%SZ}-{digits:08x}"


def volume_prefix(volume: str) -> str:
    """Return the beginning of the names of all objects of a volume."""
    return f"{VOLUMES}{volume_folder(volume)}/"


def named_by(folder: str) -> str | None:
    """Return the volume whose folder has this name; None if the name alone doesn't tell."""
    volume = unquote(folder)
    is_whole = VOLUME_NAME.fullmatch(volume) is not None and volume_folder(volume) == folder
    return volume if is_whole else None


def image_name(volume: str, point: str, suffix: str) -> str:
    """Return the name of the image of a point."""
    return f"{volume_prefix(volume)}{point}{suffix}"


def manifest_object_name(volume: str, point: str, revision: int) -> str:
    """Return the name of a manifest."""
    return f"{volume_prefix(volume)}{point}.{revision}.json"


def manifest_parts(name: str) -> tuple[str, int] | None:
    """Return the point and the revision of a manifest by its name; None for other objects."""
    match = _MANIFEST.fullmatch(name.rpartition("/")[2])
    return None if match is None else (match[1], int(match[2]))


def image_point(name: str, suffix: str) -> str | None:
    """Return the point of an image by its name; None for other objects."""
    point = name.rpartition("/")[2].removesuffix(suffix)
    return point if name.endswith(suffix) and POINT.fullmatch(point) else None
