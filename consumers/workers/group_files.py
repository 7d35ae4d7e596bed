"""GroupNotes in a site's folder: `workers/name.json`, and `workers/N.json` of the worker of slot N.

Format, version 1: a line of mirrorlog/adapters/sealed_json.py, with `format` and `version`. The
name has `run`, `term` and `position`. The note of a worker has `run`, and `caught_up`: by partition
(as text), the monotonic time in seconds. It isn't durable: nothing of it is needed after a crash of
the machine, which ends the group.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mirrorlog.adapters.folders import replace_files
from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.adapters.sealed_json import sealed_line, unsealed
from mirrorlog.consumers.name_fence import TakenName

NO_ACCESS_NEXT: Final = "Give this user access to the site's folder (--dir), and free space there."
"""What an operator can do if the site's folder can't be used."""
_NAME_FORMAT: Final = "mirrorlog.site_name"
_WORKER_FORMAT: Final = "mirrorlog.site_worker"


class GroupFiles:
    """The notes in the folder `workers` of a site's folder, which the locks have made."""

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder.absolute() / "workers"
        self._name_path: Final = self._folder / "name.json"

    def load_name(self) -> TakenName | None:
        """Return the name that was taken last; None if there is none, or if it can't be read."""
        document = _load(self._name_path, _NAME_FORMAT)
        try:
            return TakenName(document["run"], document["term"], document["position"])
        except KeyError:
            return None

    def save_name(self, name: TakenName) -> None:
        """Save the name that was taken. Raise DeviceFailed."""
        what = "saving the name for the workers of a site failed"
        with os_errors_named(what, self._name_path, NO_ACCESS_NEXT):
            replace_files({self._name_path: _sealed(_NAME_FORMAT, name._asdict())})

    def save_times(self, slot: int, run: str, times: Mapping[int, float]) -> None:
        """Save the times of a worker. A failure is ignored: the lease then says less."""
        path = self._folder / f"{slot}.json"
        temporary = path.with_name(f".{slot}.tmp")
        line = _sealed(
            _WORKER_FORMAT,
            {"run": run, "caught_up": {str(key): at_s for key, at_s in times.items()}},
        )
        with suppress(OSError):
            temporary.write_bytes(line)
            temporary.replace(path)

    def load_times(self, run: str) -> dict[int, float]:
        """Return by partition the newest time that any worker of the group has saved."""
        newest: dict[int, float] = {}
        for path in self._folder.glob("[0-9]*.json"):
            document = _load(path, _WORKER_FORMAT)
            if document.get("run") != run:
                continue
            for key, at_s in document["caught_up"].items():
                newest[int(key)] = max(at_s, newest.get(int(key), at_s))
        return newest


def _sealed(kind: str, document: Mapping[str, object]) -> bytes:
    return sealed_line({"format": kind, "version": 1, **document})


def _load(path: Path, kind: str) -> dict[str, Any]:
    """Return the document in a file; an empty one if it isn't what mirrorlog writes."""
    try:
        document = unsealed(path.read_bytes())
    except (OSError, ValueError):
        return {}
    is_known = document.get("format") == kind and document.get("version") == 1
    return document if is_known else {}
