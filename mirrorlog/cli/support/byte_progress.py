"""The progress of a command that copies bytes: a bar, lines, or JSON Lines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from mirrorlog.cli.support.output import Output
from mirrorlog.cli.support.progress_pace import ProgressPace, eta_s
from mirrorlog.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ByteProgress:
    """Shows how many bytes are done, on stderr: a bar on a terminal, a line each 10 s elsewhere.

    Under --json a message `progress` goes to stdout each second. Nothing is shown with -q. One
    thread at a time calls it.

    verb: what is done to the bytes, for people: `read`, `restored`.
    """

    def __init__(self, output: Output, monotonic_s: Callable[[], float], verb: str) -> None:
        self._output, self._verb = output, verb
        self._pace: Final = ProgressPace(monotonic_s, as_json=output.json)
        self._has_bar = sys.stderr.isatty() and not output.quiet and not output.json
        self._total = self._done = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_bar()

    def begin(self, total_bytes: int) -> None:
        """Begin, or begin again, with so many bytes to do."""
        self._close_bar()
        self._total, self._done = total_bytes, 0
        self._pace.restart()
        if self._has_bar:
            self._open_bar()

    def advance(self, length: int) -> None:
        """Note that so many more bytes are done, and show it if that is due."""
        self._done = min(self._done + length, self._total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done)
            return
        took_s = self._pace.due_after_s()
        if took_s is None:
            return
        left_s = eta_s(took_s, self._done, self._total)
        if self._output.json:
            fields = {"done_bytes": self._done, "total_bytes": self._total}
            self._output.print_message(
                "progress", {**fields, "rate_bytes_s": self._done / took_s, "eta_s": left_s}
            )
        elif not self._output.quiet:
            left = "" if left_s is None else f", {format_duration(left_s)} left"
            self._output.print_note(
                f"{format_size(self._done)} of {format_size(self._total)} {self._verb}, "
                f"{format_size(int(self._done / took_s))}/s{left}"
            )

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr, no_color=self._output.no_color),
            transient=True,
        )
        self._task = self._bar.add_task("", total=self._total)
        self._bar.start()

    def _close_bar(self) -> None:
        if self._bar is not None:
            with suppress(BrokenPipeError):
                self._bar.stop()
            self._bar = self._task = None
