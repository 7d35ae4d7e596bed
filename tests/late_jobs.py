"""Background jobs that run when a test lets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class LateJobs:
    """The port BackgroundJobs (producers/writes/background_jobs.py). wait() runs what is left."""

    waiting: list[Callable[[], None]] = field(default_factory=list)

    def start(self, job: Callable[[], None]) -> None:
        """Keep the job for run()."""
        self.waiting.append(job)

    def run(self) -> None:
        """Run the jobs that were started."""
        while self.waiting:
            self.waiting.pop(0)()

    def wait(self) -> None:
        """Run the jobs that were started."""
        self.run()
