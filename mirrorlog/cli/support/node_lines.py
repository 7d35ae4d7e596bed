"""What a running worker of the node says: which partitions it has, and how their tables recover."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mirrorlog.cli.support.output import Output
from mirrorlog.settings import Settings

if TYPE_CHECKING:
    from mirrorlog.streams.table.changelog_follower import RecoveryProgress


class NodeLines:
    """Prints lines for people, or with --json a message for each."""

    def __init__(self, settings: Settings, output: Output) -> None:
        self._settings, self._output = settings, output
        self._partitions: frozenset[int] | None = None

    def ready(self, url: str | None, partitions: Sequence[int]) -> None:
        """Say that the worker folds commands of these partitions: at the start, what it follows;
        after a rebalance, which partitions it gained and lost."""
        before, now = self._partitions, frozenset(partitions)
        self._partitions = now
        gained, lost = sorted(now - (before or frozenset())), sorted((before or frozenset()) - now)
        servers, topics = self._settings.servers, self._settings.topics
        fields = {
            "partitions": list(partitions),
            "http": url,
            "gained": gained,
            "lost": lost,
            "node": self._settings.node_name,
            "topic": topics.commands,
            "bootstrap_servers": servers.addresses,
            "dir": str(self._settings.node_folder),
        }
        self._output.print_message("ready", fields)
        page = f"; {url}/docs" if url else ""
        if before is None:
            self._output.print_text(
                f"the node is ready; partitions {listed(partitions)} of {topics.commands} at "
                f"{servers.addresses} ({servers.chosen_by()}){page}"
            )
        elif gained or lost:
            self._output.print_text(
                f"the node is ready; after a rebalance it has partitions {listed(partitions)}: "
                f"gained {listed(gained)}, lost {listed(lost)}"
            )

    def recovery(self, progress: RecoveryProgress) -> None:
        """Say how far the tables of partitions have been read from the log."""
        if self._output.json:
            fields = {
                "partitions": list(progress.partitions),
                "read_positions": progress.read,
                "total_positions": progress.total,
            }
            self._output.print_message("recovery", fields)
            return
        self._output.print_text(
            f"reading the log of partitions {listed(progress.partitions)} into the tables: "
            f"{progress.read} of {progress.total} positions"
        )

    def stopped(self) -> None:
        """Say what the worker leaves."""
        partitions = sorted(self._partitions or ())
        if self._output.json:
            self._output.print_message("stopped", {"partitions": partitions})
            return
        name = self._settings.node_name
        if self._partitions is None:
            self._output.print_text(f"{name} is stopped before it was ready: it folded nothing")
            return
        self._output.print_text(
            f"{name} is stopped: partitions {listed(partitions)} wait for it, or for another "
            "worker. All that it committed is in the log, and the next one goes on from there"
        )


def listed(partitions: Iterable[int]) -> str:
    """Return partitions in words, runs shortened: `0-3, 7`; `none` if there is none."""
    runs: list[list[int]] = []
    for partition in sorted(partitions):
        if runs and partition == runs[-1][1] + 1:
            runs[-1][1] = partition
        else:
            runs.append([partition, partition])
    texts = [f"{first}" if first == last else f"{first}-{last}" for first, last in runs]
    return ", ".join(texts) or "none"
