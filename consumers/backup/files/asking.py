"""Starts the process that reads file systems, and takes its records as they come."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from typing import IO, Final

from mirrorlog.consumers.backup.files.read_process import ReadRequest
from mirrorlog.consumers.backup.files.records import Finished, FrameDecoder, Record
from mirrorlog.errors import BadInput, BadUse
from mirrorlog.processes.dies_with_parent import dies_with_parent

MEMORY_BYTES: Final = 8 << 30
CPU_S: Final = 36_000
_READ_BYTES: Final = 1 << 20
_MAX_COMPLAINT: Final = 500
_READ: Final = (sys.executable, "-m", "mirrorlog.consumers.backup.files.read_process")
_EXPLAINED: Final = {
    signal.SIGXCPU: "it used all the processor time that it may use",
    signal.SIGKILL: "it was killed: the machine may lack memory",
}


def need_library() -> None:
    """Raise BadUse unless the library that reads file systems is installed."""
    if find_spec("pytsk3") is None:
        raise BadUse(
            "files are read with the package pytsk3, which isn't installed",
            next="Install mirrorlog with the extra `files`: pip install 'mirrorlog[files]'. Or "
            "mount the point (`mirrorlog backup mount`).",
        )


def ask_for_files(
    request: ReadRequest, where: str, *, command: Sequence[str] = _READ
) -> Generator[Record]:
    """Yield the records of a request; the last one is Finished.

    where: the point, for errors. command: what answers the request (read_process.py). If the
    generator is closed before its end, so is the process.

    Raise what the process raises: DeviceFailed, StateDamaged. Raise BadInput if what lies there
    crashed it, or took more than the limits allow.
    """
    process = subprocess.Popen(
        dies_with_parent(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    complaints: list[str] = []
    listener = threading.Thread(target=_listen, args=(process.stderr, complaints), daemon=True)
    listener.start()
    try:
        try:
            process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended already, and its exit code says why
        is_finished, decoder = False, FrameDecoder()
        while piece := os.read(process.stdout.fileno(), _READ_BYTES):
            for record in decoder.take(piece):
                is_finished = isinstance(record, Finished)
                yield record
        code = process.wait()
        listener.join(1)
        if code or not is_finished:
            raise _broken(where, _reason(code, complaints))
    except (ValueError, TypeError, KeyError, struct.error) as error:
        raise _broken(where, f"its answer makes no sense: {error}") from error
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            pipe.close()
        listener.join(1)
        process.stderr.close()


def _listen(pipe: IO[bytes], complaints: list[str]) -> None:
    """Read stderr to its end, and keep its last line that isn't empty."""
    while line := pipe.readline(_READ_BYTES):
        if text := line[:_MAX_COMPLAINT].decode("utf-8", "replace").strip():
            complaints[:] = [text]


def _reason(code: int, complaints: Sequence[str]) -> str:
    if code < 0:
        number = signal.Signals(-code)
        return _EXPLAINED.get(number, f"it ended by {number.name}")
    if complaints and "MemoryError" in complaints[0]:
        return "it used all the memory that it may use"
    return complaints[0] if complaints else f"it ended too early, with exit code {code}"


def _broken(where: str, reason: str) -> BadInput:
    return BadInput(
        f"the file systems there couldn't be read in a process of their own: {reason}",
        where=where,
        next="What is restored so far is right. Mount the point (`mirrorlog backup mount`), or "
        "restore all of it and check the file system with its own tools.",
    )
