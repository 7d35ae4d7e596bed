"""Which machine this is, and which run of it.

No field alone tells two machines apart: a copied disk has the machine id of the original, and two
containers of one machine have the same boot id. All of them together tell a folder's owner from a
copy of it that runs beside it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from mirrorlog.adapters.folders import replace_files

_MACHINE_ID: Final = Path("/etc/machine-id")  # machine-id(5)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")  # random(4): a UUID, new at each boot
_ID_FILE: Final = "instance"


@dataclass(frozen=True, slots=True)
class FolderOwner:
    """The identity of a folder as the process that locks it sees it.

    folder_id: a UUID that was drawn when the folder was first used. A copy has the same.
    place: the folder's device and inode. A copy on the same machine has others.
    machine_id, boot_id: of this machine; empty where it says none.
    """

    folder_id: str
    place: str
    machine_id: str
    boot_id: str

    @property
    def text(self) -> str:
        """All of it in one line."""
        return f"{self.folder_id} {self.place} {self.machine_id} {self.boot_id}"


def folder_owner(folder: Path) -> FolderOwner:
    """Return the identity of a folder that this process has locked. Draw its id if it has none.

    Raise OSError if the folder can't be read or written.
    """
    status = folder.stat()
    return FolderOwner(
        folder_id=_folder_id(folder),
        place=f"{status.st_dev:x}:{status.st_ino:x}",
        machine_id=machine_id(),
        boot_id=boot_id(),
    )


def machine_id() -> str:
    """Return the id that the machine got when it was installed; empty if it can't be read."""
    return _first_line(_MACHINE_ID)


def boot_id() -> str:
    """Return the id that the machine draws at each start; empty if it can't be read."""
    return _first_line(_BOOT_ID)


def _folder_id(folder: Path) -> str:
    """Return the id that the folder keeps. Write a new one, durably, if it keeps none."""
    path = folder / _ID_FILE
    with suppress(FileNotFoundError):
        if known := path.read_text("ascii").strip():
            return known
    drawn = str(uuid4())
    replace_files({path: f"{drawn}\n".encode("ascii")})
    return drawn


def _first_line(path: Path) -> str:
    with suppress(OSError):
        return path.read_text("ascii", errors="replace").partition("\n")[0].strip()
    return ""
