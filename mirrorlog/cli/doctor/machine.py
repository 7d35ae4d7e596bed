"""Asks this machine: libraries, the state folder, ports, tools and limits."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from mirrorlog.acls import Role
from mirrorlog.adapters.http.access import http_access
from mirrorlog.adapters.listening import OFF, ListeningWords, listen_at
from mirrorlog.adapters.machine import boot_id, machine_id
from mirrorlog.adapters.nbd_client.libnbd import load_libnbd
from mirrorlog.cli.doctor.snapshot import FolderFacts, IdentityFacts, LibraryFacts, PortFacts
from mirrorlog.errors import BadUse, in_words
from mirrorlog.settings import Settings

_TOOLS: Final = ("nbdkit", "nbdinfo", "nbdcopy", "qemu-img", "qemu-nbd")
_PROBE_S: Final = 0.5


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


def http_ports(settings: Settings, role: Role | None) -> list[PortFacts]:
    """Return the addresses at which the role serves HTTP; of every role if it is None."""
    return list(_http_ports(settings, role))


def _http_ports(settings: Settings, role: Role | None) -> Iterator[PortFacts]:
    if role in (None, Role.NODE):
        words = ListeningWords(who="the node", option="--http", guards="node_http_token")
        access = http_access(settings, settings.node_http_token)
        yield _port("node_http", settings.node_http, words, is_guarded=access.is_guarded)
    if role in (None, Role.HOST, Role.SITE):
        words = ListeningWords(who="a host or a site", option="--metrics", guards="metrics_token")
        is_guarded = bool(settings.metrics_token)
        yield _port("metrics", settings.metrics, words, is_guarded=is_guarded)


def _port(setting: str, address: str, words: ListeningWords, *, is_guarded: bool) -> PortFacts:
    if address == OFF:
        return PortFacts(setting=setting, address=address)
    try:
        listen_at(address, words, is_guarded=is_guarded).close()
    except BadUse as error:
        if _serves_http(address):
            return PortFacts(setting=setting, address=address, answers=True)
        return PortFacts(setting=setting, address=address, problem=error)
    return PortFacts(setting=setting, address=address)


def _serves_http(address: str) -> bool:
    """Return whether something at HOST:PORT answers a request."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        return False
    connection = HTTPConnection(host.strip("[]"), int(port), timeout=_PROBE_S)
    try:
        connection.request("GET", "/healthz")
        connection.getresponse()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True


def open_file_limit() -> int:
    """Return how many files a process may open that this shell starts."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def tools() -> Mapping[str, str | None]:
    """Return the paths of what NBD needs; None for those that aren't installed."""
    return {**{name: shutil.which(name) for name in _TOOLS}, "libnbd": _libnbd()}


def _libnbd() -> str | None:
    try:
        return str(load_libnbd()._name)
    except BadUse:
        return None
