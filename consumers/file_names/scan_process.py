"""Asks a process of its own for the index of a device, and survives whatever becomes of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.index_format import unpack_index
from mirrorlog.consumers.file_names.reading_process import (
    LastLine,
    need_library,
    start_reader,
    why_ended,
)
from mirrorlog.consumers.file_names.scan import ScanRequest
from mirrorlog.errors import BadInput, MirrorlogError, error_kind
from mirrorlog.json_text import parse_json

_READ_BYTES: Final = 1 << 20
_SCAN: Final = (sys.executable, "-m", "mirrorlog.consumers.file_names.scan")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanLimits:
    """What reading the file systems of one device may cost.

    memory_bytes: of the process. cpu_s: processor time. wall_s: until the answer is there.
    """

    memory_bytes: int = 8 << 30
    cpu_s: int = 1_800
    wall_s: float = 7_200.0


def index_of(
    address: str, limits: ScanLimits = ScanLimits(), *, command: Sequence[str] = _SCAN
) -> FileIndex:
    """Return the index of the file systems on a device, which is only read.

    address: a path, a file address or an NBD URI. command: what answers the request (scan.py).

    Raise BadUse without pytsk3; DeviceFailed if the device can't be opened or read; BadInput if
    what lies there crashed the reader, or took more than the limits allow.
    """
    need_library("files are named")
    request = ScanRequest(address=address, memory_bytes=limits.memory_bytes, cpu_s=limits.cpu_s)
    process = start_reader(command)
    talk = _Talk(process)
    try:
        talk.run(asdict(request), limits)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if process.returncode == 0:
        try:
            return unpack_index(talk.answer)
        except ValueError as error:
            raise _spoiled(address, f"its answer makes no sense: {error}") from error
    raise _error_of(address, process.returncode, talk)


class _Talk:
    """Sends the request and takes the answer, until the process has ended.

    answer: the bytes on stdout. complaint: the last line on stderr. killed: why it was killed from
    here; empty if it wasn't.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._last_line = LastLine(process.stderr)
        self.answer = b""
        self.complaint = ""
        self.killed = ""

    def run(self, request: dict[str, object], limits: ScanLimits) -> None:
        """Do it. A process that takes too long, or answers too much, is killed."""
        timer = threading.Timer(limits.wall_s, self._kill, [f"it took over {limits.wall_s:g} s"])
        timer.start()
        try:
            with suppress(BrokenPipeError):  # it has ended already, and its exit code says why
                self._stdin.write(json.dumps(request).encode() + b"\n")
                self._stdin.close()
            answer = bytearray()
            while part := self._stdout.read(_READ_BYTES):
                answer += part
                if len(answer) > limits.memory_bytes:
                    self._kill("its answer is too long")
            self._process.wait()
            self.answer = bytes(answer)
        finally:
            timer.cancel()
        self.complaint = self._last_line.text()

    def _kill(self, why: str) -> None:
        self.killed = self.killed or why
        self._process.kill()


def _error_of(address: str, code: int, talk: _Talk) -> MirrorlogError:
    """Return what the end of the process means."""
    if talk.killed:
        return _spoiled(address, talk.killed)
    told = _told_error(talk.answer) if code > 0 else None
    otherwise = f"it ended with exit code {code}"
    return told or _spoiled(address, why_ended(code, talk.complaint, otherwise=otherwise))


def _told_error(answer: bytes) -> MirrorlogError | None:
    """Return the error that the process answered with; None if its answer is none."""
    try:
        fields = parse_json(answer)
        what, where, advice = (str(fields[name]) for name in ("what", "where", "next"))
        kind = error_kind(str(fields["code"]))
    except (ValueError, KeyError, TypeError):
        return None
    return None if kind is None else kind(what, where=where, next=advice)


def _spoiled(address: str, reason: str) -> BadInput:
    return BadInput(
        f"the file systems there couldn't be read in a process of their own: {reason}",
        where=address,
        next="Check the file system with its own tools. Without --files, everything is answered by "
        "blocks.",
    )
