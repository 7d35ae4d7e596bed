"""The progress of a command that reads rows: a bar, lines, or JSON Lines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from mirrorlog.cli.support.output import Output
from mirrorlog.cli.support.progress_pace import ProgressPace, eta_s
from mirrorlog.units import format_duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class RowProgress:
    """Shows how far a reading came, on stderr: a bar on a terminal, a line each 10 s elsewhere.

    Under --json a message `progress` goes to stdout each second. Nothing is shown with -q, nor on a
    terminal on which the rows themselves appear.

    total: the number of positions to read. shows_rows: the rows go to stdout, as text.
    """

    def __init__(
        self,
        output: Output,
        total: int,
        monotonic_s: Callable[[], float],
        *,
        shows_rows: bool,
    ) -> None:
        self._output, self._total = output, total
        self._pace: Final = ProgressPace(monotonic_s, as_json=output.json)
        on_terminal = sys.stderr.isatty()
        self._is_silent = output.quiet or (on_terminal and shows_rows and sys.stdout.isatty())
        self._has_bar = on_terminal and not self._is_silent and not output.json
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._has_bar:
            self._open_bar()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            with suppress(BrokenPipeError):
                self._bar.stop()

    def update(self, done: int, rows: int) -> None:
        """Show how many positions are read, and how many rows there were, if that is due."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, rows=f"{rows:,} rows")
            return
        took_s = self._pace.due_after_s()
        if took_s is None:
            return
        rate, left_s = rows / took_s, eta_s(took_s, done, self._total)
        if self._output.json:
            fields = {"positions": done, "total_positions": self._total, "rows": rows}
            self._output.print_message("progress", {**fields, "rate_rows_s": rate, "eta_s": left_s})
        elif not self._is_silent:
            left = "" if left_s is None else f", {format_duration(left_s)} left"
            share = done / self._total if self._total else 1.0
            self._output.print_note(f"{share:.1%} read, {rows:,} rows, {rate:,.0f} rows/s{left}")

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.percentage:>5.1f} %"),
            BarColumn(),
            TextColumn("{task.fields[rows]}"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr, no_color=self._output.no_color),
            transient=True,
        )
        self._task = self._bar.add_task("", total=self._total, rows="0 rows")
        self._bar.start()
