"""Which secondaries of a site an operator has paused: a small file in the site's folder.

Format of `paused.json`, version 1: a line of mirrorlog/adapters/sealed_json.py, with `all` (true or
false), `volumes` (names, sorted), `format` and `version`. Without the file nothing is paused. The
command line replaces the file, one process after the other, and the site that runs sees that within
a second.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirrorlog.adapters.folders import replace_files
from mirrorlog.adapters.sealed_json import sealed_line
from mirrorlog.domain.volumes import check_volume_name
from mirrorlog.errors import BadUse, DeviceFailed, StateDamaged
from mirrorlog.json_text import parse_json

_FORMAT: Final = "mirrorlog.site_pauses"
_NAME: Final = "paused.json"


@dataclass(frozen=True, slots=True)
class Pauses:
    """The secondaries that are paused.

    is_all: every secondary of the site, also those of volumes that come later.
    damage: why the file can't be read; then every secondary counts as paused.
    """

    is_all: bool = False
    volumes: frozenset[str] = frozenset()
    damage: str | None = None

    def covers(self, volume: str) -> bool:
        """Return whether the secondary of a volume is paused."""
        return self.is_all or self.damage is not None or volume in self.volumes

    def paused(self, volume: str | None) -> Pauses:
        """Return these and one more; None: all."""
        if volume is None:
            return Pauses(True, self.volumes)
        return Pauses(self.is_all, self.volumes | {check_volume_name(volume)})

    def resumed(self, volume: str | None) -> Pauses:
        """Return these without one; None: without all. Raise BadUse if it can't be resumed alone.

        Nothing happens if it isn't paused.
        """
        if volume is None:
            return Pauses()
        if self.is_all:
            raise BadUse(
                f"{volume} can't be resumed alone: every secondary of the site is paused",
                next="Resume them with `mirrorlog site resume --all`.",
            )
        return Pauses(False, self.volumes - {volume})


class PauseFile:
    """The file in a site's folder."""

    def __init__(self, folder: Path) -> None:
        self.path: Final = folder / _NAME
        self._seen: tuple[int, int, int] | None = None
        self._pauses = Pauses()

    def load(self) -> Pauses:
        """Return the pauses. Raise StateDamaged, or DeviceFailed if the file can't be read."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return Pauses()
        except OSError as error:
            raise _failed("reading", self.path, error) from error
        try:
            document = parse_json(content)
            pauses = Pauses(document["all"], frozenset(document["volumes"]))
            is_intact = _encode(pauses.is_all, pauses.volumes) == content
        except (ValueError, KeyError, TypeError, RecursionError):
            is_intact = False
        if not is_intact:
            raise StateDamaged(
                "the list of paused secondaries can't be trusted: it isn't what mirrorlog writes",
                where=str(self.path),
                next="Remove this file, then pause again what is to be paused.",
            )
        return pauses

    def change(self, change: Callable[[Pauses], Pauses]) -> tuple[Pauses, Pauses]:
        """Save durably what `change` makes of the pauses; return those before and after it.

        No other process changes them meanwhile: the lock is flock(2) on the folder. Raise as
        load(), DeviceFailed if they can't be saved, and BadUse if no site has this folder.
        """
        folder = self.path.parent
        if not folder.is_dir():
            raise BadUse(
                "there is no such folder",
                where=str(folder),
                next="Name the folder that `mirrorlog site run` was given (--dir).",
            )
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                before = self.load()
                after = change(before)
                if after != before:
                    replace_files({self.path: _encode(after.is_all, after.volumes)})
            finally:
                os.close(lock)
        except OSError as error:
            raise _failed("writing", self.path, error) from error
        return before, after

    def look(self) -> Pauses:
        """Return the pauses, for the site that runs. It reads the file only when that changed.

        A file that can't be read pauses everything: the site copies nothing that it shouldn't.
        """
        try:
            status = self.path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            seen = None
        if seen is not None and seen == self._seen:
            return self._pauses
        try:
            self._pauses = self.load()
            self._seen = seen
        except (StateDamaged, DeviceFailed) as error:
            self._pauses, self._seen = Pauses(damage=str(error)), None
        return self._pauses


def _encode(is_all: bool, volumes: Iterable[str]) -> bytes:
    document = {"format": _FORMAT, "version": 1, "all": is_all, "volumes": sorted(volumes)}
    return sealed_line(document)


def _failed(doing: str, path: Path, error: OSError) -> DeviceFailed:
    return DeviceFailed(
        f"{doing} the list of paused secondaries failed: {error.strerror or error}",
        where=str(path),
        next="Give this user access and free space there, then repeat.",
    )
