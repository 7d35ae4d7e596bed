"""Work of a session that may take long and that nobody waits for."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock, Thread
from typing import Final, Protocol


class BackgroundJobs(Protocol):
    """Runs jobs. The caller starts the next job only when the last one has ended."""

    def start(self, job: Callable[[], None]) -> None:
        """Run the job now or later. The caller holds no lock that the job needs."""
        ...

    def wait(self) -> None:
        """Return when every job that was started has ended."""
        ...


class InlineJobs:
    """Runs each job before start() returns."""

    def start(self, job: Callable[[], None]) -> None:
        """Run the job."""
        job()

    def wait(self) -> None:
        """Return at once."""


class ThreadJobs:
    """Runs each job in a thread of its own, which doesn't keep the process from ending."""

    def __init__(self) -> None:
        self._lock: Final = Lock()
        self._thread: Thread | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Start the thread."""
        with self._lock:
            self._thread = Thread(target=job, name="mirrorlog-flush", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait for the last thread."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
