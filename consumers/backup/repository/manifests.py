"""Manifests: what is known of a point, as a line of JSON with a checksum. Pure.

The bytes are those of adapters/sealed_json.py. A manifest is never replaced: a change writes the
next revision, and the highest one counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import cache
from types import UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints
from uuid import UUID

from mirrorlog.adapters.sealed_json import sealed_line, unsealed
from mirrorlog.consumers.backup.repository.image_files import (
    FileDigests,
    ImageFacts,
    PartDigests,
)
from mirrorlog.consumers.backup.repository.object_names import POINT
from mirrorlog.consumers.backup.sources.source_point import BackupPosition
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import StateDamaged

FORMAT: Final = "mirrorlog-backup-point"
VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PointManifest:
    """What is known of a point.

    at_us: the time as of which it is, by the broker; None if nobody knows. written_at_us: when the
    backup began, by its machine. source: for people. reason: why it isn't consistent, or None.
    hooks: what ran before and after. size_bytes: of the volume.
    rung: how its blocks were chosen. rung_reason: why that rung, or None.
    image: its file. replacement: a prune is about to put this one in its place; the file tells
    which of the two it is. is_hidden: the point was dropped, and its image carries others.
    """

    repository_id: str
    volume: str
    point: str
    position: BackupPosition
    at_us: int | None
    written_at_us: int
    source: str
    reason: str | None
    hooks: tuple[str, ...]
    size_bytes: int
    block_size: int
    rung: Rung
    rung_reason: str | None
    image: ImageFacts
    replacement: ImageFacts | None = None
    is_hidden: bool = False
    written_by: str = ""

    @property
    def time_us(self) -> int:
        """The time by which people know the point: as of when it is, or when it was written."""
        return self.written_at_us if self.at_us is None else self.at_us

    def as_volume(self) -> Volume:
        """Return the volume as the point knows it: name, generation and size. The rest is made up.

        A point says nothing of the volume's place in the log, and of its primary.
        """
        return Volume(
            volume=self.volume,
            generation=self.position.generation,
            size_bytes=self.size_bytes,
            block_size=self.block_size,
            partition=0,
            origin_position=-1,
            initially_zeroed=False,
            primary="file:///none",
        )


def encode_point(manifest: PointManifest) -> bytes:
    """Return the bytes of a manifest."""
    return sealed_line({"format": FORMAT, "version": VERSION, **asdict(manifest)})


def decode_point(content: bytes, where: str) -> PointManifest:
    """Return the manifest in `content`.

    where: the name of the object, for errors. Raise StateDamaged, which says why, unless the bytes
    are a manifest of this version in which every field is there and has its kind.
    """
    try:
        document = unsealed(content)
        if (name := document.pop("format", None)) != FORMAT:
            raise ValueError(f"it is no manifest of a point, but '{name}'")
        if (version := document.pop("version", None)) != VERSION:
            raise ValueError(f"its version is {version}, and this release reads {VERSION}")
        return _manifest(document)
    except (ValueError, TypeError) as error:
        raise StateDamaged(
            f"a manifest can't be read: {error}",
            where=where,
            next="Run `mirrorlog backup check`: it says which points need it. A newer release may "
            "have written it.",
        ) from error


def _manifest(document: dict[str, Any]) -> PointManifest:
    position = _typed(BackupPosition, document.get("position"), "position")
    image = _image(document.get("image"), "image")
    replacement = document.get("replacement")
    manifest: PointManifest = _typed(
        PointManifest,
        {
            **document,
            "position": position,
            "image": image,
            "replacement": replacement and _image(replacement, "replacement"),
            "rung": Rung(str(document.get("rung"))),
            "hooks": tuple(document.get("hooks", ())),
        },
        "the manifest",
    )
    if not POINT.fullmatch(manifest.point):
        raise ValueError(f"'{manifest.point}' names no point")
    return manifest


def _image(value: object, what: str) -> ImageFacts:
    if not isinstance(value, dict) or not isinstance(value.get("digests"), dict):
        raise ValueError(f"{what} has no digests")
    parts = value["digests"].get("parts")
    if not isinstance(parts, list):
        raise ValueError(f"the digests of {what} have no parts")
    digests = _typed(
        FileDigests,
        {
            **value["digests"],
            "parts": tuple(
                _typed(PartDigests, part, f"a part of the digests of {what}") for part in parts
            ),
        },
        f"the digests of {what}",
    )
    image: ImageFacts = _typed(ImageFacts, {**value, "digests": digests}, what)
    if str(UUID(image.image_id)) != image.image_id:
        raise ValueError(f"'{image.image_id}' isn't the id of an image")
    if image.base is not None and not POINT.fullmatch(image.base):
        raise ValueError(f"'{image.base}' names no point")
    return image


@cache
def _field_kinds(kind: Any) -> dict[str, tuple[frozenset[type], type | None]]:
    """Return by field its possible types, and the type of its items if it is a tuple.

    They take far longer to find out than a manifest takes to read.
    """
    by_field: dict[str, tuple[frozenset[type], type | None]] = {}
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        items = get_args(hint)[0] if get_origin(hint) is tuple else None
        by_field[field.name] = frozenset(get_origin(one) or one for one in kinds), items
    return by_field


def _typed(kind: Any, value: object, what: str) -> Any:
    """Return `kind` of the fields. Raise ValueError unless these are its fields, of their kinds."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is missing")
    field_kinds = _field_kinds(kind)
    if unknown := sorted(value.keys() ^ field_kinds.keys()):
        raise ValueError(f"{what} has other fields: {', '.join(unknown)}")
    for name, (kinds, item_kind) in field_kinds.items():
        if type(value[name]) not in kinds:
            raise ValueError(f"{name} is '{value[name]}'")
        if item_kind is not None and any(type(item) is not item_kind for item in value[name]):
            raise ValueError(f"{name} aren't texts")
    return kind(**value)
