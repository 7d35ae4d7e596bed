"""The two native parts, built from their sources with this machine's compiler, once, and kept in the cache folder.

A filter of nbdkit has no stable interface: it fits the very nbdkit that its header came with, so the version is part of
what the built files are called by.
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

SOURCES: Final = ("ring.h", "ring.c", "filter.c")
FLAGS: Final = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-pthread")


@dataclass(frozen=True, slots=True)
class NativeLibraries:
    """What was built."""

    ring: Path
    filter: Path


def build_libraries(cache_dir: Path) -> NativeLibraries:
    """Both parts, built where they aren't there. BadUse where that can't be done here, with the reason."""
    version = _run(nbdkit_path(), "--version").strip()
    filter_ = _build(cache_dir, "filter", version)
    # Loads it: an nbdkit of another version than the header's refuses here, and says so.
    _run(nbdkit_path(), f"--filter={filter_}", "null", "--help")
    return NativeLibraries(build_ring(cache_dir), filter_)


def build_ring(cache_dir: Path) -> Path:
    """The host's part alone, which needs a compiler and nothing of nbdkit."""
    return _build(cache_dir, "ring", "")


def _build(cache_dir: Path, part: str, version: str) -> Path:
    source = {name: (files("mirrorlog.producers.nbd") / name).read_bytes() for name in SOURCES}
    said = "\0".join([version, platform.machine(), *FLAGS]).encode() + b"\0".join(source.values())
    target = (
        cache_dir
        / "nbd"
        / f"mirrorlog-{part}-{hashlib.blake2b(said, digest_size=8).hexdigest()}.so"
    )
    if target.exists():
        return target
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise BadUse("there is no C compiler", next=f"{INSTALL_HINT}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for name, content in source.items():
            (Path(folder) / name).write_bytes(content)
        made = Path(folder) / "made.so"
        _run(compiler, *FLAGS, "-o", str(made), str(Path(folder) / f"{part}.c"))
        made.replace(target)  # whole or not at all, whoever else builds it now
    return target


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = next(
            (line for line in lines if "error" in line),
            lines[-1] if lines else f"exit {done.returncode}",
        )
        raise BadUse(
            f"nbdkit's native filter can't be built or loaded: {reason.strip()}",
            where=command[0],
            next=f"{INSTALL_HINT}.",
        )
    return done.stdout
