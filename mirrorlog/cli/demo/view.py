"""How the demo looks: a bar for each stage on a terminal, a line for each without one, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mirrorlog.cli.support.output import Output
from mirrorlog.units import format_size

_LINE_EVERY_S = 10.0


class Bar:
    """One stage's progress; `total` None where nobody can know how far it is."""

    def __init__(self, view: DemoView, name: str, total: int | None, task: TaskID | None) -> None:
        self._view, self._name, self._total, self._task = view, name, total, task
        self._done, self._told_at_s = 0, time.monotonic()

    def reach(self, done: int) -> None:
        """It is that far."""
        self._done = done
        if self._task is not None:
            self._view.progress.update(self._task, completed=done)
        elif self._total and time.monotonic() - self._told_at_s >= _LINE_EVERY_S:
            self._told_at_s = time.monotonic()
            self._view.output.print_text(f"{self._name}: {done / self._total:.0%}")

    def fetched(self, files: int, of: int) -> None:
        """Kafka is being fetched; the first run on a machine does that, and prepares it for quick starts."""
        if files == 1:
            self._view.output.print_text(
                f"fetching Apache Kafka and preparing it, {of} files; this happens once"
            )

    def advance(self, by: int) -> None:
        """It is `by` further."""
        self.reach(self._done + by)


class DemoView:
    """Stages and the table, on whatever stream people read."""

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
    def stage(self, name: str, total: int | None) -> Iterator[Bar]:
        """One stage, from its beginning to its end."""
        started_s = time.monotonic()
        task = self.progress.add_task(name, total=total) if self._live else None
        yield Bar(self, name, total, task)
        if task is not None:
            self.progress.update(task, total=total or 1, completed=total or 1)
        else:
            self.output.print_text(f"{name}: done in {time.monotonic() - started_s:.1f} s")

    def table(self, result: Mapping[str, Any], kept: Path | None) -> None:
        """The result at a glance, and what to try next."""
        say = self.output.print_text
        say("")
        say(
            f"{result['trace']}: {result['writes']:,} writes, {format_size(result['bytes_written'])} on "
            f"{result['volumes']:,} volume{'' if result['volumes'] == 1 else 's'}; {result['extents']:,} extents in "
            f"{result['commands']:,} commands"
        )
        same = (
            "as the trace counts them"
            if result["dirty_blocks"] == result["dirty_blocks_counted"]
            else (f"BUT THE TRACE COUNTS {result['dirty_blocks_counted']:,}")
        )
        size = format_size(result["dirty_blocks"] * result["block_size"])
        say(
            f"dirty blocks in the log: {result['dirty_blocks']:,} of {format_size(result['block_size'])}, {size}, {same}"
        )
        table = Table("SITE", "STATE", "BLOCKS COPIED", "BYTES COPIED", "LAG", "IDENTICAL")
        for row in result["sites"]:
            table.add_row(
                row["site"],
                row["state"],
                f"{row['blocks_copied']:,}",
                format_size(row["bytes_copied"]),
                f"{row['lag_s']:.1f} s",
                "yes" if row["identical"] else "NO",
            )
        self.output.console.print(table)
        say(f"{'ok' if result['ok'] else 'NOT OK'} in {result['elapsed_s']:.1f} s")
        say(
            f"kept in {kept}"
            if kept
            else "try next: mirrorlog demo --trace FILE --sites 3 --block-size 64KiB --keep DIR"
        )
