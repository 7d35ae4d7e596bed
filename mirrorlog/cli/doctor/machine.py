"""Asks this machine: libraries, the state folder, tools and limits."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from mirrorlog.adapters.host_key_file import read_host_keys
from mirrorlog.adapters.machine import boot_id, machine_id
from mirrorlog.adapters.nbd_client.libnbd import load_libnbd
from mirrorlog.cli.doctor.snapshot import (
    FolderFacts,
    HostKeyFacts,
    IdentityFacts,
    LibraryFacts,
)
from mirrorlog.errors import BadUse, in_words

_TOOLS: Final = ("nbdkit", "nbdinfo", "nbdcopy", "qemu-img", "qemu-nbd")


def libraries() -> list[LibraryFacts]:
    """Return Python and every library that mirrorlog needs, with the bounds of its package."""
    facts = [LibraryFacts("Python", platform.python_version(), _python_bounds())]
    for text in requires("mirrorlog") or ():
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            facts.append(LibraryFacts(needed.name, _version_of(needed.name), str(needed.specifier)))
    return facts


def _python_bounds() -> str:
    return str(metadata("mirrorlog").json.get("requires_python", ""))


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def state_folder(path: Path) -> FolderFacts:
    """Return what the folder allows: a file is written, synced, locked and removed there.

    A folder that doesn't exist isn't made: the nearest one above it is tried.
    """
    tried = next(folder for folder in (path, *path.parents) if folder.exists())
    return FolderFacts(
        path=path,
        exists=tried == path,
        free_bytes=shutil.disk_usage(tried).free,
        problem=_problem_with(tried),
    )


def _problem_with(folder: Path) -> str | None:
    """Return what fails with a new file in the folder; None if all works."""
    doing = "a file can't be written"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"mirrorlog doctor")
            file.flush()
            doing = "a file can't be made durable (fsync)"
            os.fsync(file.fileno())
            doing = "a file can't be locked (flock)"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return f"{doing}: {in_words(error)}"
    return None


def identity() -> IdentityFacts:
    """Return by what this machine is told from others."""
    return IdentityFacts(machine_id=machine_id(), boot_id=boot_id())


def open_file_limit() -> int:
    """Return how many files a process may open that this shell starts."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def host_keys(path: Path | None) -> HostKeyFacts:
    """Return what the node's file of host keys holds. None: the settings name none."""
    if path is None:
        return HostKeyFacts()
    try:
        keys = read_host_keys(path)
    except BadUse as error:
        return HostKeyFacts(path=path, problem=error)
    return HostKeyFacts(path=path, keys=keys, is_open=bool(path.stat().st_mode & 0o077))


def tools() -> Mapping[str, str | None]:
    """Return the paths of what NBD needs; None for those that aren't installed."""
    return {**{name: shutil.which(name) for name in _TOOLS}, "libnbd": _libnbd()}


def _libnbd() -> str | None:
    try:
        return str(load_libnbd()._name)
    except BadUse:
        return None
