"""Which secondaries of a site drills hold: a file for each in the site's folder.

A drill writes `drills/VOLUME.hold`, and touches it every few seconds. The site that runs looks at
the files in each round. One that wasn't touched for FORGOTTEN_S is of a drill that was killed: it
counts no more, so that a secondary never stays held for ever. Only the name and the time count.

The file asks the site to stop at the next consistent position. It proves nothing: the drill needs
the lock of the secondary (image_locks.lock_still), which the site gives up then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.domain.volumes import check_volume_name

FORGOTTEN_S: Final = 30.0
RENEW_S: Final = 5.0
"""A drill touches its file this often."""
_SUFFIX: Final = ".hold"


class DrillHolds:
    """The files in a site's folder. now_s: the time of the file system, seconds since 1970."""

    def __init__(self, folder: Path, now_s: Callable[[], float] = time.time) -> None:
        self.folder: Final = folder / "drills"
        self._now_s: Final = now_s

    def look(self) -> frozenset[str]:
        """Return the volumes whose secondaries are held."""
        held = []
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX) and self._is_fresh(entry):
                    held.append(entry.name.removesuffix(_SUFFIX))
        return frozenset(held)

    def _is_fresh(self, entry: os.DirEntry[str]) -> bool:
        try:
            return self._now_s() - entry.stat().st_mtime < FORGOTTEN_S
        except OSError:  # it was removed just now
            return False

    def renew(self, volume: str) -> None:
        """Ask the site to hold a secondary, or to go on with that. Raise DeviceFailed."""
        path = self._path(volume)
        with os_errors_named(
            "asking the site to hold a secondary failed",
            path,
            "Name the folder that `mirrorlog site run` was given (--dir), and give this user "
            "access there.",
        ):
            self.folder.mkdir(exist_ok=True)
            path.touch()

    def end(self, volume: str) -> None:
        """Let the site go on."""
        with suppress(OSError):
            self._path(volume).unlink()

    def _path(self, volume: str) -> Path:
        return self.folder / f"{check_volume_name(volume)}{_SUFFIX}"
