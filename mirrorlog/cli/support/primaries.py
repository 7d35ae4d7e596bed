"""Which file or device becomes the primary of a volume: checked before anything is published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mirrorlog.adapters.addresses import open_device, path_of, place_of
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, MirrorlogError
from mirrorlog.ports.devices import BlockDevice


@dataclass(frozen=True, slots=True)
class PrimaryChoice:
    """A primary that the user names for a volume.

    create: make a file if there is none. with_parents: make its folder, too.
    reuse: take a primary whose mark names a volume that is retired or that this cluster doesn't
        know.
    """

    address: str
    create: bool = False
    with_parents: bool = False
    reuse: bool = False


def make_or_check(choice: PrimaryChoice, volume: str, size_bytes: int) -> bool:
    """Make the primary's file if that is asked for; return whether all of it reads as zeros.

    Raise BadUse if there is none and none is asked for, or if it is smaller than the volume.
    """
    if not is_nbd(choice.address):
        path = path_of(choice.address)
        if not path.exists():
            _check_creation(choice, path, volume)
            FileDevice.create(path, size_bytes).close()
            return True
    with open_device(choice.address, writable=False) as device:
        check_size(device, choice.address, size_bytes)
        return next(device.allocated(), None) is None


def check_size(device: BlockDevice, address: str, size_bytes: int) -> None:
    """Raise BadUse if the primary is smaller than its volume."""
    if device.size_bytes < size_bytes:
        raise BadUse(
            f"the primary has {device.size_bytes} bytes, the volume {size_bytes}",
            where=address,
            next="Grow it, or name the right one.",
        )


def check_unused(
    choice: PrimaryChoice, volume: str, volumes: Mapping[str, Volume], marks: PrimaryMarkFiles
) -> None:
    """Raise BadUse if the storage at the address, under whatever name, is another volume's primary.

    volumes: all volumes that exist, by name. A primary that can't be opened here is compared by its
    path alone, and an NBD export by its name.
    """
    place = place_of(choice.address)
    with open_device(choice.address, writable=False) as device:
        for other in volumes.values():
            if other.volume == volume or other.is_retired:
                continue
            if _is_same(other, place, device):
                raise _taken(choice.address, f"of volume '{other.volume}'")
        mark = marks.read(device)
    if mark is None or (mark.volume == volume and volume in volumes):
        return
    other_volume = volumes.get(mark.volume)
    if other_volume is not None and mark.is_of(other_volume) and not other_volume.is_retired:
        raise _taken(choice.address, f"of volume '{mark.volume}', says its mark")
    if not choice.reuse:
        raise _taken(
            choice.address,
            f"of volume '{mark.volume}', says its mark; that volume is retired, or isn't known to "
            "this cluster",
            next="If it is gone for good, say --reuse-primary. Two volumes on one primary would "
            "each miss what is written through the other.",
        )


@contextmanager
def marked(
    choice: PrimaryChoice,
    marks: PrimaryMarkFiles,
    new_mark: Callable[[BlockDevice], PrimaryMark],
) -> Iterator[None]:
    """Mark the primary while the block publishes its volume. If that fails, take the mark away.

    An NBD export has no mark: its host marks the file that it opens.
    """
    if is_nbd(choice.address):
        yield
        return
    with open_device(choice.address, writable=False) as device:
        marks.write([(device, new_mark(device))])
        try:
            yield
        except BaseException:
            marks.remove(device)
            raise


def _check_creation(choice: PrimaryChoice, path: Path, volume: str) -> None:
    if not choice.create:
        raise BadUse(
            "there is no primary at this address",
            where=f"volume {volume}, {path}",
            next="Name a file or device that exists, or let a file be made there with "
            "--create-primary.",
        )
    if choice.with_parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.parent.is_dir():
        raise BadUse(
            "the folder of the primary doesn't exist",
            where=f"volume {volume}, {path.parent}",
            next="Make the folder first, or mount what belongs there.",
        )


def _is_same(other: Volume, place: str, device: BlockDevice) -> bool:
    try:
        if place_of(other.primary) == place:
            return True
        if is_nbd(other.primary):  # its name is all that is known of it
            return False
        with open_device(other.primary, writable=False) as its:
            return its.identity.overlaps(device.identity)
    except (MirrorlogError, OSError):
        return False  # it isn't on this machine


def _taken(address: str, whose: str, *, next: str = "") -> BadUse:
    return BadUse(
        f"this is the primary {whose}",
        where=address,
        next=next
        or "Two volumes on one primary would each miss what is written through the "
        "other. Name another primary.",
    )
