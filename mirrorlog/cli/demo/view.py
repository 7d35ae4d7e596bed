"""The demo's display: a bar for each stage on a terminal, a line elsewhere, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mirrorlog.cli.support.output import Output
from mirrorlog.cli.support.tables import Column, print_table
from mirrorlog.units import format_size

_LINE_EVERY_S = 10.0


class StageBar:
    """One stage's progress. `total` is None if nobody can know how much there is to do."""

    def __init__(self, view: DemoView, name: str, total: int | None, task: TaskID | None) -> None:
        self._view, self._name, self._total, self._task = view, name, total, task
        self._done, self._printed_at_s = 0, time.monotonic()

    def reach(self, done: int) -> None:
        """Show that `done` of `total` is done."""
        self._done = done
        if self._task is not None:
            self._view.progress.update(self._task, completed=done)
        elif self._total and time.monotonic() - self._printed_at_s >= _LINE_EVERY_S:
            self._printed_at_s = time.monotonic()
            self._view.output.print_text(f"{self._name}: {done / self._total:.0%}")

    def advance(self, by: int) -> None:
        """Show that `by` more is done."""
        self.reach(self._done + by)

    def fetched(self, files: int, total: int) -> None:
        """Print, when the first file of Kafka is there, that Kafka is being fetched.

        Kafka is fetched, and prepared for quick starts, in the first run on a machine.
        """
        if files == 1:
            self._view.output.print_text(
                f"fetching Apache Kafka and preparing it, {total} files; this happens once"
            )


_SITE_COLUMNS: Final = (
    Column("SITE"),
    Column("STATE"),
    Column("BLOCKS COPIED", right=True),
    Column("BYTES COPIED", right=True),
    Column("LAG", right=True),
    Column("IDENTICAL"),
)


class DemoView:
    """Shows the stages and the result on the stream for people."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._live = output.console.is_terminal and not output.quiet
        self.progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=40),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=output.console,
            disable=not self._live,
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[StageBar]:
        """Show one stage, from its beginning to its end."""
        started_s = time.monotonic()
        task = self.progress.add_task(name, total=total) if self._live else None
        yield StageBar(self, name, total, task)
        if task is not None:
            self.progress.update(task, total=total or 1, completed=total or 1)
        else:
            self.output.print_text(f"{name}: done in {time.monotonic() - started_s:.1f} s")

    def print_result(self, result: Mapping[str, Any], kept: Path | None) -> None:
        """Print the result (of stages.play) at a glance, and what to try next.

        kept: the folder that was kept.
        """
        print_text = self.output.print_text
        print_text("")
        for line in _result_lines(result):
            print_text(line)
        print_table(self.output, _SITE_COLUMNS, map(_site_row, result["sites"]))
        print_text(f"{'ok' if result['ok'] else 'NOT OK'} in {result['elapsed_s']:.1f} s")
        print_text(
            f"kept in {kept}"
            if kept
            else "try next: mirrorlog demo --trace FILE --sites 3 --block-size 64KiB --keep DIR"
        )


def _result_lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{result['trace']}: {result['writes']:,} writes, {format_size(result['bytes_written'])} "
        f"on {result['volumes']:,} volume{'' if result['volumes'] == 1 else 's'}; "
        f"{result['extents']:,} extents in {result['commands']:,} commands"
    )
    verdict = (
        "as the trace counts them"
        if result["dirty_blocks"] == result["dirty_blocks_counted"]
        else f"BUT THE TRACE COUNTS {result['dirty_blocks_counted']:,}"
    )
    block_size = result["block_size"]
    yield (
        f"dirty blocks in the log: {result['dirty_blocks']:,} of {format_size(block_size)}, "
        f"{format_size(result['dirty_blocks'] * block_size)}, {verdict}"
    )


def _site_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of _SITE_COLUMNS."""
    return (
        row["site"],
        row["state"],
        f"{row['blocks_copied']:,}",
        format_size(row["bytes_copied"]),
        "unknown" if row["lag_s"] is None else f"{row['lag_s']:.1f} s",
        "yes" if row["identical"] else "NO",
    )
