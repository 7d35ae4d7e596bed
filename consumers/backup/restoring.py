"""Restores a point to a device or to a new file.

1. The caller compares all images of the point with their digests (open_point, reads_all=True):
   nothing is written of a damaged point.
2. Open the target (open_target). It must be large enough, used by nobody else, and no volume's
   primary or secondary, whose log would miss what is written. It must hold nothing, unless the
   caller lets it be overwritten. Until here nothing was written.
3. Copy what the point holds, and make all else zeros, so that nothing of before stays.
4. Flush the target.
5. A new file gets its name only now: it had `NAME.restoring` until then. So a file of that name is
   whole, whatever ended a restore before.

A target that existed holds a mix of old and new bytes if step 3 or 4 fails. Repeat the restore.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from mirrorlog.adapters.addresses import open_nbd, open_primary, parse_file_address
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.image_locks import lock_image
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd
from mirrorlog.adapters.object_folder import link_durably
from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.adapters.secondary_marks import check_no_secondary
from mirrorlog.consumers.resync.restoration import CopyPlan
from mirrorlog.consumers.resync.samples import SampleTaker
from mirrorlog.consumers.resync.whole_copy import WholeCopy, copy_whole
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.primary_marks import PrimaryMarks
from mirrorlog.ports.task_runner import TaskRunner

_BATCH_BYTES: Final = 4 << 20
_WHOLE: Final = 1 << 63
_SUFFIX: Final = ".restoring"


def restore(
    point: BlockDevice,
    target: BlockDevice,
    *,
    volume: Volume,
    tasks: TaskRunner,
    on_copied: Callable[[int], None] = lambda _: None,
) -> int:
    """Make the first bytes of `target` equal `point`, durably; return how many bytes were read.

    volume: of the point (PointManifest.as_volume). The target is as large at least; what lies
    behind the volume's end stays as it is. on_copied: called with the bytes of each batch. Raise
    DeviceFailed, or what `on_copied` raises.
    """
    plan = CopyPlan(
        batch_bytes=_BATCH_BYTES,
        samples=SampleTaker(volume.volume),
        on_copied=lambda counts: on_copied(counts.read_bytes),
        tasks=tasks,
    )
    copy = WholeCopy(begin=0, chunk_bytes=_WHOLE, on_chunk=lambda _: None)
    copied = copy_whole(point, target, volume, plan, copy)
    assert copied is not None  # one chunk holds everything
    return copied.bytes


@contextmanager
def open_target(
    address: str, size_bytes: int, marks: PrimaryMarks, *, may_overwrite: bool
) -> Iterator[BlockDevice]:
    """Open what a point of `size_bytes` bytes is restored to, until the block ends.

    A file that isn't there gets its name when the block ends without an error. Raise BadUse if the
    target can't be used (step 2), DeviceFailed.
    """
    if not is_nbd(address) and not (path := parse_file_address(address).path).exists():
        with _new_file(path, size_bytes) as file:
            yield file
        return
    _remove_first_name(address)
    with _opened(address, marks) as device:
        if device.size_bytes < size_bytes:
            raise BadUse(
                f"the target has {device.size_bytes} bytes, and the point {size_bytes}",
                where=address,
                next="Name a larger one, or a new file.",
            )
        if not may_overwrite and next(device.allocated(), None) is not None:
            raise BadUse(
                "the target holds data, or can't tell that it doesn't",
                where=address,
                next="Name a new file, or let it be overwritten (--overwrite).",
            )
        yield device


@contextmanager
def _opened(address: str, marks: PrimaryMarks) -> Iterator[BlockDevice]:
    if is_nbd(address):
        with open_nbd(address, writable=True) as export:
            yield export
        return
    check_no_secondary(parse_file_address(address).path)
    with open_primary(address, exclusive=True) as device:
        mark = marks.read(device)
        if mark is not None:
            raise BadUse(
                f"the target is the primary of volume {mark.volume}, and its log would miss what "
                "is restored",
                where=address,
                next="Serve it (`mirrorlog host serve`), and restore to the NBD address of that.",
            )
        yield device


@contextmanager
def _new_file(path: Path, size_bytes: int) -> Iterator[BlockDevice]:
    """Make a file that gets the name `path` when the block ends without an error (step 5)."""
    unfinished = path.with_name(path.name + _SUFFIX)
    _remove_left(unfinished)
    with FileDevice.create(unfinished, size_bytes) as device:
        try:
            lock_image(device.fileno(), str(unfinished))
            yield device
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        with os_errors_named(
            "giving the restored file its name failed",
            path,
            f"It is whole, as {unfinished}: move it by hand.",
        ):
            if not link_durably(unfinished, path):  # unlike a renaming, it never replaces a file
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            unfinished.unlink()


def _remove_first_name(address: str) -> None:
    """Remove the first name of a restored file that has its own: the restore was killed then."""
    if not is_nbd(address):
        path = parse_file_address(address).path
        unfinished = path.with_name(path.name + _SUFFIX)
        if unfinished.exists() and unfinished.samefile(path):
            unfinished.unlink()


def _remove_left(unfinished: Path) -> None:
    """Remove what a killed restore left. Raise BadUse if one still writes to it."""
    if unfinished.exists():
        with closing(FileDevice(unfinished, writable=True)) as left:
            lock_image(left.fileno(), str(unfinished))
            unfinished.unlink()
