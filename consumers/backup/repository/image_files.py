"""The port to the format of images: what a repository needs to know of the files of points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Ranges [first, end) of a volume's bytes, ascending, that don't touch."""

LendsBelow: TypeAlias = Callable[[], AbstractContextManager[Sequence[Path]]]
IDENTIFYING_BYTES: Final = 64 << 10
"""So many bytes at the beginning of a file name the image, and the one on which it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDigests:
    """Digests of the bytes [offset, offset + length) of an image's file.

    part: the name of the part, by the format. piece_bytes: there is a digest of each piece of so
    many bytes; the last piece may be shorter. digests: one after the other, in hexadecimal digits.
    """

    part: str
    offset: int
    length: int
    piece_bytes: int
    digests: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigests:
    """Digests of an image's file, by which damage is found and placed.

    algorithm: of hashlib, or a name that the format of the images knows. parts: ascending, of the
    whole file.
    """

    algorithm: str
    parts: tuple[PartDigests, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What a manifest says of an image's file.

    image_id: a canonical UUID, which the file holds, too. base: the point on whose image this one
    stands; None if it stands alone. layout: of the file, by its format. file_bytes: its length.
    data_bytes: of the volume, of which the image holds data. stored_bytes: what the file took on
    the storage where it was written.
    """

    image_id: str
    base: str | None
    layout: str
    file_bytes: int
    data_bytes: int
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

    def identify(self, beginning: bytes, where: str) -> ImageIdentity:
        """Return what a file says of itself, by its first IDENTIFYING_BYTES bytes.

        where: the file, for errors. Raise StateDamaged if they aren't the beginning of an image.
        """
        ...

    def check(self, path: Path, image: ImageFacts, *, size_bytes: int) -> Sequence[FileDamage]:
        """Read the whole file, and return how it, or its size, differs from what was written.

        size_bytes: of the volume at the image's point. An image of which nothing can be read any
        more has a damage without ranges.
        """
        ...

    def held_ranges(self, path: Path) -> Ranges:
        """Return the ranges of the volume for which no image below this one is read.

        The last one ends behind the end of any volume: an image hides what lies behind its end.
        Raise StateDamaged if the image can't be read.
        """
        ...

    def merge(
        self,
        paths: Sequence[Path],
        target: Path,
        *,
        base: str | None,
        image_id: str,
        size_bytes: int,
        below: LendsBelow,
    ) -> ImageFacts:
        """Write what a chain of images holds together to a new file, durably.

        paths: newest first, each of which stands on the next one. base: the point on whose image
        the last of them stands, and the new image, too; None if they stand alone. size_bytes: of
        the volume at the newest of them. below: lends the images on which the last of `paths`
        stands, newest first, for as long as the `with` block lasts. It is called only if the new
        image must hold something of theirs.

        The new image reads as the first of `paths` does now, also if the volume shrank or grew in
        between. Raise StateDamaged if the images aren't such a chain.
        """
        ...
