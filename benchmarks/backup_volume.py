"""The volume that bench_backup.py backs up, and other tools' ways to do so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from backup_points import BLOCK_BYTES
from tool_commands import run_command

_FILL_BYTES: Final = 4 << 20
_SEED: Final = 14


@dataclass(slots=True)
class ChangingVolume:
    """A file of random bytes, of which the same share changes again and again.

    changed: the blocks that changed last, ascending.
    """

    path: Path
    size_bytes: int
    changed: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(_SEED))

    def __post_init__(self) -> None:
        with self.path.open("wb", 0) as file:
            for _ in range(0, self.size_bytes, _FILL_BYTES):
                file.write(self._random.bytes(_FILL_BYTES))
            os.fsync(file.fileno())

    @property
    def blocks(self) -> int:
        """The blocks of the volume."""
        return self.size_bytes // BLOCK_BYTES

    def change(self, blocks: int) -> None:
        """Write other bytes to so many blocks, drawn at random, durably."""
        self.changed = np.sort(self._random.choice(self.blocks, blocks, replace=False))
        data = self._random.bytes(blocks * BLOCK_BYTES)
        with self.path.open("r+b", 0) as file:
            for place, block in enumerate(self.changed.tolist()):
                start = place * BLOCK_BYTES
                block_data = data[start : start + BLOCK_BYTES]
                os.pwrite(file.fileno(), block_data, block * BLOCK_BYTES)
            os.fsync(file.fileno())


def copy_bare(volume: ChangingVolume, target: Path) -> None:
    """Copy the changed blocks to a new file, one after the other, durably."""
    place = 0
    with volume.path.open("rb", 0) as source, target.open("xb", 0) as file:
        for block in volume.changed.tolist():
            data = os.pread(source.fileno(), BLOCK_BYTES, block * BLOCK_BYTES)
            os.pwrite(file.fileno(), data, place)
            place += BLOCK_BYTES
        os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class OtherTool:
    """A tool that backs up the whole file again. VOLUME, REPOSITORY: replaced in its commands.

    first, again: commands, after which the volume as it is then is in the repository.
    """

    name: str
    first: Sequence[Sequence[str]]
    again: Sequence[str]
    package: str

    @property
    def is_installed(self) -> bool:
        """Whether the tool is on this machine."""
        return shutil.which(self.again[0]) is not None

    def run(self, command: Sequence[str], volume: ChangingVolume, folder: Path) -> None:
        """Run one of the commands, with all that the tool keeps in `folder`."""
        names = {"VOLUME": str(volume.path), "REPOSITORY": str(folder / "repository")}
        line = [
            names.get(word, word).replace("REPOSITORY::", f"{names['REPOSITORY']}::")
            for word in command
        ]
        environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "BORG_BASE_DIR": str(folder),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "RESTIC_PASSWORD": "benchmark",
        }
        run_command(line, environment)


def _borg(name: str, *options: str) -> OtherTool:
    def create(archive: str) -> list[str]:
        return ["borg", "create", *options, f"REPOSITORY::{archive}", "VOLUME"]

    init = ["borg", "init", "--encryption", "none", "REPOSITORY"]
    return OtherTool(name, [init, create("first")], create("second"), "borgbackup")


_RESTIC: Final = ["restic", "--repo", "REPOSITORY"]
OTHER_TOOLS: Final = (
    OtherTool(
        "restic",
        [[*_RESTIC, "init"], [*_RESTIC, "backup", "VOLUME"]],
        [*_RESTIC, "backup", "VOLUME"],
        "restic",
    ),
    _borg("borg"),
    _borg("borg_fixed", "--chunker-params", "fixed,65536"),
)


def stored_bytes(folder: Path) -> int:
    """Return what the files of a folder take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
