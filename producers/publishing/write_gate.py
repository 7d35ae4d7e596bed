"""Whether writes may begin: not while no command finds room, and not after a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Final

from mirrorlog.errors import BadInput, KafkaFailed


class WriteGate:
    """Whether writes of a session may begin, and why they may not.

    accepts_writes: whether a write may begin. If not, it waits, or check() raises the reason.
    rejected: by volume, the node's first refusal of one of its commands.
    """

    def __init__(self, lock: RLock, on_rejected: Callable[[str, BadInput], None]) -> None:
        """Create the gate, open. lock: the outbox's.

        on_rejected: called with the lock held, with a volume and its first refusal.
        """
        self.accepts_writes = True
        self.rejected: Final[dict[str, BadInput]] = {}
        self._lock: Final = lock
        self._on_rejected: Final = on_rejected
        self._on_accepts_writes: Callable[[], None] = lambda: None
        self._refused: KafkaFailed | BadInput | None = None

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback`, with the lock held, each time that `accepts_writes` changes."""
        self._on_accepts_writes = callback

    def set_accepts_writes(self, accepts_writes: bool) -> None:
        """Let writes begin, or not. The caller holds the lock."""
        if accepts_writes != self.accepts_writes:
            self.accepts_writes = accepts_writes
            self._on_accepts_writes()

    @property
    def is_refused(self) -> bool:
        """Return whether check() raises."""
        return self._refused is not None

    def check(self) -> None:
        """Raise what was given to refuse() first, if anything was."""
        if self._refused is not None:
            raise self._refused

    @contextmanager
    def keeping_refusals(self) -> Iterator[None]:
        """Call check(). Remember a KafkaFailed of the block: a broker refuses for good."""
        self.check()
        try:
            yield
        except KafkaFailed as error:
            self.refuse(error)
            raise

    def refuse(self, error: KafkaFailed | BadInput) -> None:
        """Let no write begin any more, and check() raise the first error that is given here."""
        with self._lock:
            self._refused = self._refused or error
            self.set_accepts_writes(False)

    def reject(self, volume: str, error: BadInput) -> None:
        """Let no write to the volume begin any more. Only its first error counts, and is reported.

        The caller holds the lock.
        """
        if volume not in self.rejected:
            self.rejected[volume] = error
            self._on_rejected(volume, error)
