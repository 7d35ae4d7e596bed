"""Builds the shared libraries of the host and of nbdkit's filter with this machine's compiler.

They are built once and kept in the cache folder. nbdkit's interface for filters isn't stable: a
filter fits only the version of nbdkit that its header came with. The name of a built file therefore
depends on that version, on the machine, on the compiler's flags and on the sources.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from mirrorlog.errors import BadUse
from mirrorlog.producers.nbd.nbdkit_process import INSTALL_HINT, nbdkit_path

SOURCES: Final = (
    "fork_state.h",
    "ring.h",
    "ring.c",
    "snapshot_store.h",
    "snapshot_store.c",
    "snapshot_units.h",
    "snapshot_exports.h",
    "snapshot_exports.c",
    "host_link.h",
    "host_link.c",
    "forked_writes.h",
    "forked_writes.c",
    "filter.c",
)
_PARTS: Final = {
    "ring": ("ring.c",),
    "filter": (
        "filter.c",
        "forked_writes.c",
        "host_link.c",
        "snapshot_exports.c",
        "snapshot_store.c",
    ),
    "snapshot_store": ("snapshot_store.c",),
    "forked_writes": ("forked_writes.c", "ring.c"),
}
"""By library, the files that are compiled."""
FLAGS: Final = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-pthread")


@dataclass(frozen=True, slots=True)
class NativeLibraries:
    """The paths of the built libraries."""

    ring: Path
    filter: Path


def build_libraries(cache_dir: Path) -> NativeLibraries:
    """Return both libraries, and build those that the cache folder doesn't hold.

    BadUse, with the reason, if they can't be built here.
    """
    version = _run(nbdkit_path(), "--version").strip()
    filter_ = _build(cache_dir, "filter", version)
    # Load the filter. nbdkit refuses it here if its header is of another version.
    _run(nbdkit_path(), f"--filter={filter_}", "null", "--help")
    return NativeLibraries(build_ring(cache_dir), filter_)


def build_ring(cache_dir: Path) -> Path:
    """Return the library of ring.c alone. It needs a compiler, and nothing of nbdkit."""
    return _build(cache_dir, "ring", "")


def build_snapshot_store(cache_dir: Path) -> Path:
    """Return the library of snapshot_store.c alone, for tests."""
    return _build(cache_dir, "snapshot_store", "")


def build_forked_writes(cache_dir: Path) -> Path:
    """Return the library of forked_writes.c and ring.c, for tests."""
    return _build(cache_dir, "forked_writes", "")


def _build(cache_dir: Path, part: str, version: str) -> Path:
    """Return the library of this part, built for this version of nbdkit."""
    sources = {name: (files("mirrorlog.producers.nbd") / name).read_bytes() for name in SOURCES}
    identity = "\0".join([version, platform.machine(), *FLAGS]).encode() + b"\0".join(
        sources.values()
    )
    target = (
        cache_dir
        / "nbd"
        / f"mirrorlog-{part}-{hashlib.blake2b(identity, digest_size=8).hexdigest()}.so"
    )
    if target.exists():
        return target
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise BadUse(
            "no C compiler is installed",
            next=f"{INSTALL_HINT}.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for name, content in sources.items():
            (Path(folder) / name).write_bytes(content)
        built = Path(folder) / "built.so"
        paths = [str(Path(folder) / name) for name in _PARTS[part]]
        _run(compiler, *FLAGS, "-o", str(built), *paths)
        built.replace(target)  # Atomic: another process may build the same file now.
    return target


def _run(*command: str) -> str:
    """Run the command and return its standard output. Raise BadUse if it fails."""
    completed = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if completed.returncode != 0:
        lines = completed.stderr.strip().splitlines()
        reason = next(
            (line for line in lines if "error" in line),
            lines[-1] if lines else f"exit {completed.returncode}",
        )
        raise BadUse(
            f"nbdkit's native filter can't be built or loaded: {reason.strip()}",
            where=command[0],
            next=f"{INSTALL_HINT}.",
        )
    return completed.stdout
