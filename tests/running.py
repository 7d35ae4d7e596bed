"""Waiting for a run of real processes, and how it ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from confluent_kafka import KafkaException
from deadlines import DEADLINE_S, wait_until

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.cli.demo.proof import ProgressFollower, differing_volumes, dirty_blocks_of_log
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.lookup import load_volumes
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.errors import KafkaFailed
from mirrorlog.settings import Settings


class Outcome:
    """The end of a run: its log, its sites' reports, and its files.

    volumes: the descriptions at the time when this was made. reports: of the site that
    wait_consistent waited for last, by volume.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.volumes = load_volumes(run.settings)
        self.reports: dict[str, SiteProgress] = {}

    def dirty_blocks(self, last_positions: Mapping[str, int]) -> int:
        """Return how many blocks the log names, once it is complete through these positions."""
        return sum(
            dirty_blocks_of_log(
                self.run.settings, self.volumes, last_positions, DEADLINE_S
            ).values()
        )

    def wait_consistent(self, site: str, last_positions: Mapping[str, int]) -> None:
        """Wait until the site has proved every volume consistent at these positions."""
        follower = ProgressFollower(self.run.settings)
        until = time.monotonic() + DEADLINE_S
        while unproved := follower.unproved(site, last_positions):
            assert time.monotonic() < until, (
                f"{site} isn't consistent: {follower.reports.get((site, unproved[0]))}"
            )
            follower.poll(0.2)
            self.run.check()
        self.reports = {report.volume: report for report in follower.reports_of(site)}
        follower.close()

    def identical(self, site: str) -> bool:
        """Return whether every secondary equals its primary byte for byte."""
        folder = self.run.folder
        files = {
            name: (folder / "primary" / f"{name}.img", folder / site / f"{name}.img")
            for name in self.volumes
        }
        assert files
        return differing_volumes(files, 4096, lambda _: None) == {}


def run_cli(
    settings: Settings, *arguments: str, as_json: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a `mirrorlog` command with these settings, under --json unless said otherwise."""
    return subprocess.run(
        [sys.executable, "-m", "mirrorlog", *(["--json"] if as_json else []), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env={**os.environ, **settings.as_environment()},
        stdin=subprocess.DEVNULL,
    )


def committed(run: Run) -> dict[int, int | None]:
    """Return, by partition, the first position that the node's group hasn't committed.

    None where it has committed nothing. A worker that starts folds from there on, also what the log
    holds already: it may write records of positions below the log's watermark. None of those below
    what this returns is folded again.
    """
    topics = run.settings.topics
    with closing(KafkaAdmin(run.settings.kafka_client())) as admin:
        return admin.committed_positions(topics.node_group, topics.commands)


def when_the_group_is_empty(change: Callable[[], object]) -> None:
    """Call `change` until Kafka allows it: a stopped worker stays in its group for a while."""

    def is_allowed() -> bool:
        try:
            change()
        except (KafkaFailed, KafkaException):
            return False
        return True

    wait_until(is_allowed, every_s=0.1)


def wait_for_writes(run: Run, at_least: int) -> None:
    """Wait until the host has made that many writes."""
    run.wait_for(
        lambda message: (
            message.part == "host"
            and message.message_type == "progress"
            and message.fields["writes"] >= at_least
        ),
        DEADLINE_S,
    )


def wait_for_result(run: Run, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Wait until the host has ended; return the fields of its result."""
    return run.wait_for(
        lambda message: message.part == "host" and message.message_type == "result", deadline_s
    )
