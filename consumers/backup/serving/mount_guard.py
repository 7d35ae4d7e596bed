"""The process that mounts a point, and unmounts it whatever becomes of the other processes.

It is started as a program of its own, by its path, and imports nothing of mirrorlog: it goes on
when the process that started it was killed. `mounting.py` speaks with it.

    python3 -I mount_guard.py REQUEST       a JSON object, see main()

1. Start nbdfuse, which makes a file of the export in the work folder.
2. Make a loop device of that file, which is writable: a file system that wasn't unmounted in order
   replays its journal first, into what the export throws away.
3. Mount the loop device, read-only. The loop device goes with the mount.
4. Print a line of JSON: {"error": null}, or what failed.
5. Wait for the end of standard input: nobody wants the mount any more, or the other process died.
6. Unmount. If somebody uses the mount for longer than the time allowed, detach it: it is gone for
   all others, and goes for them with their last file. Print {"left": true} in that case.

SIGINT, SIGTERM and SIGHUP don't end it: a service manager sends them to every process at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1
_READY_S: Final = 30.0
_LOOK_S: Final = 0.05
_FILE: Final = "nbd"
_EXTENDED: Final = ("5", "f", "85")
"""The types of partitions that hold others, in a table of MBR."""


class _Failed(Exception):
    """A step failed. The text says which, and what it said."""


def main(
    *,
    uri: str,
    target: str,
    work: str,
    partition: int | None,
    options: str,
    busy_s: float,
    left: list[str],
) -> None:
    """Do as the top of this file says.

    uri: of the export. target: the folder on which the file system appears. work: an empty folder.
    partition: its number, in the order of the partitions' places; None for the whole export.
    options: of mount(8), beside `ro`. busy_s: how long to wait for those who use the mount.
    """
    for number in _IGNORED:
        signal.signal(number, lambda *_: None)
    server: subprocess.Popen[bytes] | None = None
    is_mounted = False
    try:
        try:
            server = _serve_file(uri, work)
            loop = _loop_device(Path(work, _FILE), partition)
            try:
                _run("mount", "-o", f"ro,{options}" if options else "ro", loop, target)
                is_mounted = True
            finally:
                _run("losetup", "--detach", loop)  # it stays for as long as it is mounted
            _say({"error": None})
        except (_Failed, OSError) as error:
            _say({"error": str(error)})
            return
        _await_end(server)
    finally:
        is_left = is_mounted and not _unmount(target, busy_s)
        _stop(server, work, is_used=is_left)
        _remove(left)
        _say({"left": is_left})


def _serve_file(uri: str, work: str) -> subprocess.Popen[bytes]:
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)

    process = subprocess.Popen(
        ["nbdfuse", str(Path(work, _FILE)), uri],
        stdin=subprocess.DEVNULL,
        stdout=2,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - there is one thread
    )
    until_s = time.monotonic() + _READY_S
    while not Path(work, _FILE).exists():
        if process.poll() is not None or time.monotonic() > until_s:
            _stop(process, work)
            raise _Failed(f"nbdfuse didn't make a file of the export (exit code {process.poll()})")
        time.sleep(_LOOK_S)
    return process


def _loop_device(file: Path, partition: int | None) -> str:
    place: tuple[str, ...] = ()
    if partition is not None:
        start, length = _range_of(file, partition)
        place = ("--offset", str(start), "--sizelimit", str(length))
    return _run("losetup", "--find", "--show", *place, str(file)).strip()


def _range_of(file: Path, partition: int) -> tuple[int, int]:
    """Return where a partition begins, and its length in bytes."""
    table = json.loads(_run("sfdisk", "--json", str(file)))["partitiontable"]
    sector = int(table.get("sectorsize", 512))
    places = sorted(
        (int(entry["start"]) * sector, int(entry["size"]) * sector)
        for entry in table.get("partitions", ())
        if entry.get("type") not in _EXTENDED
    )
    if not 1 <= partition <= len(places):
        raise _Failed(f"there is no partition {partition}: the volume has {len(places)}")
    return places[partition - 1]


def _await_end(server: subprocess.Popen[bytes]) -> None:
    """Return at the end of the input, or when the export is gone."""
    while server.poll() is None:
        ready, _, _ = select.select([0], [], [], _LOOK_S * 4)
        if ready and not os.read(0, 1024):
            return


def _unmount(target: str, busy_s: float) -> bool:
    """Unmount; return whether nobody uses the mount any more."""
    until_s = time.monotonic() + busy_s
    while os.path.ismount(target):
        with suppress(_Failed):
            _run("umount", target)
            continue
        if time.monotonic() > until_s:
            with suppress(_Failed):
                _run("umount", "--lazy", target)
            return False
        time.sleep(_LOOK_S)
    return True


def _stop(server: subprocess.Popen[bytes] | None, work: str, *, is_used: bool = False) -> None:
    """End nbdfuse: it does so when its file system is unmounted, and nobody uses it any more."""
    with suppress(_Failed):
        _run("umount", "--lazy", work)
    if server is not None:
        with suppress(subprocess.TimeoutExpired):
            server.wait(0 if is_used else _READY_S)
        if server.poll() is None:
            server.kill()
        server.wait()


def _remove(left: list[str]) -> None:
    for path in map(Path, left):
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _run(*command: str) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True
    )
    if done.returncode:
        said = done.stderr.strip().replace("\n", " ") or f"exit code {done.returncode}"
        raise _Failed(f"{command[0]}: {said}")
    return done.stdout


def _say(line: dict[str, object]) -> None:
    with suppress(OSError):  # the other process is gone
        os.write(1, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
