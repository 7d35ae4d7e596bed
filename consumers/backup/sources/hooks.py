"""Commands around the moment that a point stands for: freeze before it, thaw after it.

`fsfreeze --freeze /mnt`, or a database's own command, lets the point be more than what a power cut
leaves. A file system that stays frozen is worse than no backup. So a process of its own runs both
commands (hook_guard.py): it thaws when it is asked to, when this process is gone, however it ended,
and at the latest after a fixed time. The point is then refused, or says that it isn't what was
asked for: thaw() tells.
"""

from __future__ import annotations

import logging
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final

from mirrorlog.consumers.backup.sources import hook_guard
from mirrorlog.errors import MirrorlogError
from mirrorlog.json_text import parse_json

log = logging.getLogger("mirrorlog.backup")

_AFTER_S: Final = 60.0
"""How long the command that thaws may take, before this process says that it still runs."""
_START_S: Final = 30.0


class HookFailed(MirrorlogError):
    """A command before or after a point failed, or took too long."""


class ThawCause(StrEnum):
    """Why the guard thawed."""

    ASKED = "asked"
    LATE = "late"  # the time was over
    GONE = "gone"  # the backup's process was gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """The commands, for /bin/sh; None: there is none.

    timeout_s: how long what they freeze is frozen at most, from the start of `before` on.
    """

    before: str | None
    after: str | None
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Thaw:
    """What became of the freeze. frozen_s: from the start of `before` to the end of `after`.

    The upper bound of that time if the guard thawed by itself.
    """

    cause: ThawCause
    frozen_s: float

    @property
    def is_in_time(self) -> bool:
        """Whether all was frozen until thaw() was called."""
        return self.cause is ThawCause.ASKED


class Freeze:
    """What `before` froze. thaw() ends it; so does the end of the block of frozen()."""

    def __init__(self, guard: _Guard | None) -> None:
        self._guard, self._begun_s = guard, time.monotonic()
        self._thaw: Thaw | None = None

    def thaw(self) -> Thaw:
        """Run `after`, unless the guard did that already. A second call returns the same.

        Raise HookFailed if `after` fails, or still runs after a minute.
        """
        if self._thaw is None:
            cause = ThawCause.ASKED if self._guard is None else self._guard.thaw()
            self._thaw = Thaw(cause=cause, frozen_s=time.monotonic() - self._begun_s)
        return self._thaw


@contextmanager
def frozen(hooks: Hooks) -> Iterator[Freeze]:
    """Run `before`, and `after` at the end of the block at the latest. Raise HookFailed."""
    if hooks.before is None and hooks.after is None:
        yield Freeze(None)
        return
    guard = _Guard(hooks)
    try:
        freeze = Freeze(guard)
        guard.await_frozen()
        yield freeze
        freeze.thaw()
    finally:
        guard.close()


class _Guard:
    """The guard's process, and what it says."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._is_over = self._has_run_before = False
        arguments = [f"{hooks.timeout_s:f}", hooks.before or "", hooks.after or ""]
        path = Path(hook_guard.__file__)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(path), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise HookFailed(
                f"the process that freezes and thaws can't be started: {error.strerror}",
                where=sys.executable,
                next="Nothing was frozen. Try again.",
            ) from error
        assert self._process.stdout is not None
        self._lines = _Lines(self._process.stdout)

    def await_frozen(self) -> None:
        """Return when `before` has ended well. Otherwise thaw, and raise HookFailed."""
        said = self._lines.next(self._hooks.timeout_s + _START_S)
        self._has_run_before = True
        if said is not None and said["code"] == 0:
            return
        self._finish()
        if said is None:
            what = "the process that freezes and thaws has ended, or says nothing"
        elif said["code"] is None:
            what = (
                f"the command before didn't end within {self._hooks.timeout_s:g} s, and is killed"
            )
        else:
            what = f"the command before failed with exit code {said['code']}"
        raise HookFailed(
            f"{what}{_quoted(said)}",
            where=self._hooks.before or "",
            next="No point was taken, and the command after has run. Run the command by hand.",
        )

    def thaw(self) -> ThawCause:
        """Let the guard thaw, and wait for that. Raise HookFailed if it fails."""
        said = self._finish()
        if said is None:
            raise HookFailed(
                f"the command after didn't end within {_AFTER_S:g} s",
                where=self._hooks.after or "",
                next="See whether what it thaws is still frozen, and thaw it by hand.",
            )
        if said["code"] != 0:
            raise HookFailed(
                f"the command after failed with exit code {said['code']}{_quoted(said)}",
                where=self._hooks.after or "",
                next="See whether what it thaws is still frozen, and thaw it by hand.",
            )
        return ThawCause(said["why"])

    def close(self) -> None:
        """See to it that the guard thaws, whatever was raised. Say in the log if that fails."""
        if not self._is_over:
            said = self._finish()
            if said is None or said["code"] != 0:
                log.error(
                    "the command after a backup failed, and what it thaws may be frozen: %s%s",
                    self._hooks.after,
                    _quoted(said),
                )
        with suppress(OSError):
            self._lines.close()
        if self._process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)

    def _finish(self) -> dict[str, Any] | None:
        """Return what the guard says of `after`; None if it says nothing in time."""
        self._is_over = True
        assert self._process.stdin is not None
        with suppress(OSError):  # it has thawed by itself, and ended
            self._process.stdin.write(b"\n")
            self._process.stdin.close()
        if not self._has_run_before:  # this process was interrupted, and the guard says that first
            self._lines.next(_AFTER_S)
        return self._lines.next(_AFTER_S)


class _Lines:
    """Lines of JSON from a pipe, each within a time."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._read = pipe, b""

    def next(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next line; None at the end of the pipe, and after `timeout_s`."""
        until_s = time.monotonic() + timeout_s
        while b"\n" not in self._read:
            left_s = max(0.0, until_s - time.monotonic())
            ready, _, _ = select.select([self._pipe], [], [], left_s)
            data = self._pipe.read1(4096) if ready else b""  # type: ignore[attr-defined]
            if not data:
                return None
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        said: dict[str, Any] = parse_json(line)
        return said

    def close(self) -> None:
        """Close the pipe."""
        self._pipe.close()


def _quoted(said: dict[str, Any] | None) -> str:
    """Return what a command printed, for an error."""
    return f": {said['output']}" if said is not None and said["output"] else ""
