"""A run of real processes, looked at from outside."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from deadlines import DEADLINE_S

from mirrorlog.cli.demo.proof import ProgressFollower, differing_volumes, dirty_blocks_of_log
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.lookup import load_volumes
from mirrorlog.domain.site_progress import SiteProgress


class Outcome:
    """How a run ended, looked at from outside."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.volumes = load_volumes(run.settings)
        self.reports: dict[str, SiteProgress] = {}

    def dirty_blocks(self, last_positions: Mapping[str, int]) -> int:
        """Blocks that the log names, once it is complete through these positions."""
        return sum(
            dirty_blocks_of_log(
                self.run.settings, self.volumes, last_positions, DEADLINE_S
            ).values()
        )

    def wait_consistent(self, site: str, last_positions: Mapping[str, int]) -> None:
        """Returns when the site has proved every volume consistent at these positions."""
        follower = ProgressFollower(self.run.settings)
        until = time.monotonic() + DEADLINE_S
        while waiting := follower.unproved(site, last_positions):
            assert time.monotonic() < until, (
                f"{site} isn't consistent: {follower.reports.get((site, waiting[0]))}"
            )
            follower.poll(0.2)
            self.run.check()
        self.reports = {report.volume: report for report in follower.reports_of(site)}
        follower.close()

    def identical(self, site: str) -> bool:
        """Whether every secondary equals its primary byte for byte."""
        folder = self.run.folder
        pairs = {
            name: (folder / "primary" / f"{name}.img", folder / site / f"{name}.img")
            for name in self.volumes
        }
        assert pairs
        return differing_volumes(pairs, 4096, lambda _: None) == {}


def host_writes(run: Run, at_least: int) -> None:
    """Returns when the host has made that many writes."""
    run.wait_for(
        lambda m: (
            m.part == "host" and m.message_type == "progress" and m.fields["writes"] >= at_least
        ),
        DEADLINE_S,
    )


def host_result(run: Run, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Returns when the host is done: its result."""
    return run.wait_for(lambda m: m.part == "host" and m.message_type == "result", deadline_s)
