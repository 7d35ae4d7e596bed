"""The port to the format of images: what a repository needs to know of the files of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Ranges [first, end) of a volume's bytes, ascending, that don't touch."""

IDENTIFYING_BYTES: Final = 64 << 10
"""So many bytes at the beginning of a file name the image, and the one on which it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigests:
    """Digests of an image's file, by which damage is found and placed.

    algorithm: of hashlib, or a name that the format of the images knows. pieces: the digest of each
    piece of `piece_bytes` bytes, in hexadecimal digits; the last piece may be shorter.
    tables: the digest of all that lies before the data; None if the format has no such part.
    """

    algorithm: str
    piece_bytes: int
    pieces: tuple[str, ...]
    tables: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What a manifest says of an image's file.

    image_id: a canonical UUID, which the file holds, too. base: the point on whose image this one
    stands; None if it stands alone. layout: of the file, by its format. file_bytes: of the file.
    changed_blocks: how many blocks of the volume it holds. stored_bytes: of their data.
    """

    image_id: str
    base: str | None
    layout: str
    file_bytes: int
    changed_blocks: int
    stored_bytes: int
    digests: FileDigests


@dataclass(frozen=True, slots=True)
class ImageIdentity:
    """What a file says of itself. backing: the name of the file on which it stands, or None."""

    image_id: str
    backing: str | None


@dataclass(frozen=True, slots=True)
class FileDamage:
    """Damage of an image's file.

    what: for people. ranges: of the volume, whose bytes can't be trusted; None: all that the image
    holds.
    """

    what: str
    ranges: Ranges | None


class ImageFiles(Protocol):
    """Reads and merges images. All paths are of local files. DeviceFailed if one can't be read."""

    @property
    def suffix(self) -> str:
        """The end of the names of image files, such as `.qcow2`."""
        ...

    def identify(self, beginning: bytes) -> ImageIdentity:
        """Return what a file says of itself, by its first IDENTIFYING_BYTES bytes.

        Raise StateDamaged if they aren't the beginning of an image.
        """
        ...

    def check(self, path: Path, image: ImageFacts) -> Sequence[FileDamage]:
        """Read the whole file, and return how it, or its size, differs from what was written."""
        ...

    def held_ranges(self, path: Path) -> Ranges:
        """Return the ranges of the volume that the image holds itself."""
        ...

    def merge(
        self,
        paths: Sequence[Path],
        target: Path,
        *,
        backing: str | None,
        base: str | None,
        image_id: str,
    ) -> ImageFacts:
        """Write what a chain of images holds together to a new file, durably.

        paths: newest first, each of which stands on the next one. backing: the name of the file on
        which the new image stands, of which `base` is the point; None if it stands alone.

        The new image on `backing` reads as the first of `paths` does now, also if the volume shrank
        or grew in between.
        """
        ...
