"""The port ImageFiles over the images of consumers/backup/qcow2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

import numpy as np

from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.qcow2.format import HEADER_PAGE_BYTES, ImageHeader, ImageLayout
from mirrorlog.consumers.backup.qcow2.image_check import ImageDamage, ImagePart, check_image
from mirrorlog.consumers.backup.qcow2.image_digests import ImageDigests
from mirrorlog.consumers.backup.qcow2.image_map import open_header, open_map
from mirrorlog.consumers.backup.qcow2.image_plan import ImagePlan
from mirrorlog.consumers.backup.qcow2.image_writing import WrittenImage
from mirrorlog.consumers.backup.qcow2.mapped_runs import BEHIND_ANY_END
from mirrorlog.consumers.backup.qcow2.merging import BelowNeeded, merge_images
from mirrorlog.consumers.backup.qcow2.unit_runs import Runs, merged
from mirrorlog.consumers.backup.repository.image_files import (
    FileDamage,
    FileDigests,
    ImageFacts,
    ImageIdentity,
    LendsBelow,
    PartDigests,
    Ranges,
)
from mirrorlog.consumers.backup.repository.object_names import image_point
from mirrorlog.domain.verifications import DigestAlgorithm
from mirrorlog.errors import BadUse, DeviceFailed, StateDamaged

SUFFIX: Final = ".qcow2"
_DIGEST_CHARACTERS: Final = 32
_COMPRESSED: Final = "+zstd"


class Qcow2Files:
    """ImageFiles of qcow2 images. Methods without a docstring follow the port."""

    suffix: Final = SUFFIX

    def identify(self, beginning: bytes, where: str) -> ImageIdentity:
        header = ImageHeader.unpack(beginning[:HEADER_PAGE_BYTES], where)
        if header.image_id is None:
            raise StateDamaged(
                "the image has no id: mirrorlog didn't write it",
                where=where,
                next="Run `mirrorlog backup check` to see which points are affected.",
            )
        return ImageIdentity(str(header.image_id), header.backing)

    def check(self, path: Path, image: ImageFacts, *, size_bytes: int) -> list[FileDamage]:
        digests = image_digests(image.digests, str(path))
        damages = check_image(path, digests, size_bytes=size_bytes, read_data=True)
        is_lost = bool(damages) and not _is_readable(path)
        return [
            FileDamage(
                f"{damage.part}, {damage.length} bytes from byte {damage.offset} on: "
                f"{damage.reason}",
                _ranges(damage, is_lost=is_lost),
            )
            for damage in damages
        ]

    def held_ranges(self, path: Path) -> Ranges:
        image = open_map(path)
        size_bytes = image.header.size_bytes
        held = merged(
            Runs(
                np.append(image.runs.starts, size_bytes),
                np.append(image.runs.ends, BEHIND_ANY_END),
            )
        )
        return tuple(zip(held.firsts.tolist(), held.ends.tolist(), strict=True))

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
        backing = open_header(paths[-1]).backing
        if backing != backing_name(base):
            raise StateDamaged(
                f"the image stands on {backing}, not on {backing_name(base)}",
                where=str(paths[-1]),
                next="Run `mirrorlog backup check`; never rename images.",
            )
        new_id = UUID(image_id)
        try:
            written = merge_images(paths, target, image_id=new_id, size_bytes=size_bytes)
        except BelowNeeded:
            with below() as lower, ChainReader(lower) as reader:
                written = merge_images(
                    paths, target, image_id=new_id, size_bytes=size_bytes, below=reader
                )
        header = open_header(target)
        return _facts(written, new_id, backing, header.layout, is_compressed=header.is_compressed)


def backing_name(base: str | None) -> str | None:
    """Return the name of the file of a point, by which images that stand on it name it."""
    return None if base is None else f"{base}{SUFFIX}"


def facts_of(plan: ImagePlan, written: WrittenImage) -> ImageFacts:
    """Return what a manifest says of an image that was written by a plan.

    Raise ValueError unless the plan's backing is the file of a point, or None.
    """
    return _facts(
        written, plan.image_id, plan.backing, plan.layout, is_compressed=plan.is_compressed
    )


def _facts(
    written: WrittenImage,
    image_id: UUID,
    backing: str | None,
    layout: ImageLayout,
    *,
    is_compressed: bool,
) -> ImageFacts:
    base = None if backing is None else image_point(backing, SUFFIX)
    if backing_name(base) != backing:
        raise ValueError(f"{backing} isn't the name of a point's image")
    return ImageFacts(
        image_id=str(image_id),
        base=base,
        layout=f"{layout}{_COMPRESSED if is_compressed else ''}",
        file_bytes=written.file_bytes,
        data_bytes=written.data_bytes,
        stored_bytes=written.stored_bytes,
        digests=file_digests(written.digests),
    )


def file_digests(digests: ImageDigests) -> FileDigests:
    """Return digests as a manifest keeps them."""
    data_bytes = digests.file_bytes - digests.data_offset
    tables_bytes = digests.data_offset - digests.head_bytes
    parts = (
        (ImagePart.HEAD, 0, digests.head_bytes, digests.head_bytes, (digests.head,)),
        (
            ImagePart.TABLES,
            digests.head_bytes,
            tables_bytes,
            digests.table_piece_bytes,
            digests.tables,
        ),
        (
            ImagePart.DATA,
            digests.data_offset,
            data_bytes,
            digests.data_piece_bytes,
            digests.data,
        ),
    )
    return FileDigests(
        algorithm=DigestAlgorithm.XXH3_128.value,
        parts=tuple(
            PartDigests(
                part=part.value,
                offset=offset,
                length=length,
                piece_bytes=piece_bytes,
                digests="".join(pieces),
            )
            for part, offset, length, piece_bytes, pieces in parts
        ),
    )


def image_digests(digests: FileDigests, where: str) -> ImageDigests:
    """Return the digests of which file_digests() gave these.

    where: the image, for errors. Raise StateDamaged for digests of another kind.
    """
    names = tuple(part.part for part in digests.parts)
    if digests.algorithm != DigestAlgorithm.XXH3_128.value or names != tuple(ImagePart):
        raise StateDamaged(
            f"the image can't be checked: its digests are {digests.algorithm} of "
            f"{', '.join(names)}",
            where=where,
            next="A newer release may have written it. Check it with that one.",
        )
    head, tables, data = digests.parts
    return ImageDigests(
        file_bytes=data.offset + data.length,
        head_bytes=head.length,
        data_offset=data.offset,
        table_piece_bytes=tables.piece_bytes,
        data_piece_bytes=data.piece_bytes,
        head=head.digests,
        tables=_pieces(tables.digests),
        data=_pieces(data.digests),
    )


def _pieces(text: str) -> tuple[str, ...]:
    return tuple(
        text[start : start + _DIGEST_CHARACTERS]
        for start in range(0, len(text), _DIGEST_CHARACTERS)
    )


def _is_readable(path: Path) -> bool:
    """Return whether the map of an image can be read: without it, no chain that has it can be."""
    try:
        open_map(path)
    except (StateDamaged, DeviceFailed, BadUse):
        return False
    return True


def _ranges(damage: ImageDamage, *, is_lost: bool) -> Ranges | None:
    if damage.part is ImagePart.HEAD or is_lost:
        return None
    return tuple((offset, offset + length) for offset, length in damage.guest_ranges)
