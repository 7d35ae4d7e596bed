"""Where the mark of a secondary is kept: a small file beside a file, .NAME.mirrorlog.

A device has no such place, and an NBD export neither. Its site keeps the mark in its own folder
(consumers/secondary_exports.py). A fork knows a device by its serial number.

Format: mark_format.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mirrorlog.adapters.mark_format import MarkFormat
from mirrorlog.adapters.spare_files import replace_files_often
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.errors import BadUse

_FORMAT: Final = MarkFormat(
    kind=SecondaryMark,
    name="mirrorlog.secondary_mark",
    max_bytes=4096,
    what="the mark of a secondary",
    writer="a site",
    next_if_damaged="Nothing is guessed. If the secondary may be overwritten, remove this file: "
    "its site then copies everything.",
    next_if_failed="Give this user access and free space there. The site tries again.",
)
encode_mark: Final = _FORMAT.encode
decode_mark: Final = _FORMAT.decode
read_mark: Final = _FORMAT.read


def mark_path(secondary: Path) -> Path:
    """Return the path of the mark of a secondary that is a file. Symbolic links are followed."""
    return mark_beside(secondary.resolve())


def mark_beside(real: Path) -> Path:
    """Return the path of the mark of a file at this path, which is without symbolic links."""
    return real.with_name(f".{real.name}.mirrorlog")


def check_no_secondary(path: Path) -> None:
    """Raise BadUse if a site has marked the file at `path` as its secondary.

    Raise StateDamaged and DeviceFailed as read_mark() does.
    """
    mark = read_mark(mark_path(path))
    if mark is not None:
        raise BadUse(
            f"this is the secondary of volume {mark.volume} at site {mark.site}: its mark says so",
            where=str(path),
            next="The site writes to it. Name the right primary. If it is to take the primary's "
            "place: `mirrorlog promote`. If the cluster of its log is gone for good, see that the "
            f"site doesn't run, and remove the mark ({mark_path(path).name}).",
        )


def write_marks(marks: Mapping[Path, SecondaryMark]) -> None:
    """Write marks durably, each in place of the one before. Raise DeviceFailed."""
    try:
        replace_files_often({path: encode_mark(mark) for path, mark in marks.items()})
    except OSError as error:
        raise _FORMAT.failed("writing", next(iter(marks)), error) from error
