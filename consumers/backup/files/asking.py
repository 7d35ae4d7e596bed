"""Starts the process that reads file systems, and takes its records as they come."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Final

from mirrorlog.consumers.backup.files.read_process import ReadRequest
from mirrorlog.consumers.backup.files.records import Finished, FrameDecoder, Record
from mirrorlog.consumers.file_names.reading_process import LastLine, start_reader, why_ended
from mirrorlog.errors import BadInput

MEMORY_BYTES: Final = 8 << 30
CPU_S: Final = 36_000
_READ_BYTES: Final = 1 << 20
_READ: Final = (sys.executable, "-m", "mirrorlog.consumers.backup.files.read_process")


def ask_for_files(
    request: ReadRequest, where: str, *, command: Sequence[str] = _READ
) -> Generator[Record]:
    """Yield the records of a request; the last one is Finished.

    where: the point, for errors. command: what answers the request (read_process.py). If the
    generator is closed before its end, so is the process.

    Raise what the process raises: DeviceFailed, StateDamaged. Raise BadInput if what lies there
    crashed it, or took more than the limits allow.
    """
    process = start_reader(command)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    last_line = LastLine(process.stderr)
    try:
        with suppress(BrokenPipeError):  # it has ended already, and its exit code says why
            process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            process.stdin.close()
        is_finished, decoder = False, FrameDecoder()
        while piece := os.read(process.stdout.fileno(), _READ_BYTES):
            for record in decoder.take(piece):
                is_finished = isinstance(record, Finished)
                yield record
        code = process.wait()
        if code or not is_finished:
            otherwise = f"it ended too early, with exit code {code}"
            raise _broken(where, why_ended(code, last_line.text(), otherwise=otherwise))
    except (ValueError, TypeError, KeyError, struct.error) as error:
        raise _broken(where, f"its answer makes no sense: {error}") from error
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            pipe.close()
        last_line.text()
        process.stderr.close()


def _broken(where: str, reason: str) -> BadInput:
    return BadInput(
        f"the file systems there couldn't be read in a process of their own: {reason}",
        where=where,
        next="What is restored so far is right. Mount the point (`mirrorlog backup mount`), or "
        "restore all of it and check the file system with its own tools.",
    )
