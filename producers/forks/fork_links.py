"""The port to another process that forks the writes of a volume by itself (nbd/ring_forks.py).

The process writes to the primary, and to the secondaries that are in the fork. The host opens,
flushes and closes the secondaries, and decides which of them are in the fork.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import Data
from mirrorlog.producers.forks.fork_calls import ForkedDevice

_LOOK_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class LinkState:
    """What the process says of one secondary at one moment.

    is_in: writes that end are queued for the secondary. is_idle: nothing is queued for it, and no
    call is running. failure: why the process has put it out; None if it hasn't.
    next: the number of the next write. joined, left, reached: numbers of writes: the first one
    that it got since it joined; the first one that it didn't get, if it isn't in; the one below
    which it has all of them, though not durably. busy: those of running calls.
    has_file: the process has the secondary open.
    """

    is_in: bool
    is_idle: bool
    failure: str | None
    next: int
    joined: int
    left: int
    reached: int
    busy: range
    has_file: bool


class SecondaryLink(Protocol):
    """The process and one secondary. No call waits for the process."""

    @property
    def is_gone(self) -> bool:
        """Return True once the process has ended: no call of it is running."""
        ...

    def look(self) -> LinkState:
        """Return what the process says now."""
        ...

    def join(self, ends: int | None) -> bool:
        """Let the secondary into the fork, unless the process isn't ready for it.

        ends: a value of ends() before the last writes were collected. If more writes have ended
        since, the secondary isn't let in. None: any number of writes may have ended.
        """
        ...

    def ends(self) -> int:
        """Return how many writes have ended. All of these are there to be collected."""
        ...

    def leave(self) -> None:
        """Put the secondary out of the fork, if it is in."""
        ...

    def note_flushed(self, number: int) -> None:
        """Tell the process that the secondary has its writes below `number` durably."""
        ...

    def send_file(self, device: ForkedDevice) -> None:
        """Let the process open the secondary as `device` has it open.

        DeviceFailed if it can't be told.
        """
        ...

    def take_file(self) -> None:
        """Let the process close the secondary, which must be out and idle.

        If the process can't be told, it has ended, or ends: nothing happens.
        """
        ...


class LinkedSecondary:
    """ForkedDevice that another process writes to.

    covered: the process had written all writes below this number before the last flush.
    """

    def __init__(
        self, device: ForkedDevice, link: SecondaryLink, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Let the process open it. Raise DeviceFailed if the process can't be told."""
        self._device: Final = device
        self._link: Final = link
        self._sleep: Final = sleep
        self.covered = 0
        link.send_file(device)

    @property
    def size_bytes(self) -> int:
        """The size when it was opened."""
        return self._device.size_bytes

    @property
    def secondary_id(self) -> str:
        """See ForkedDevice."""
        return self._device.secondary_id

    def pwrite(self, offset: int, data: Data) -> None:  # noqa: ARG002 - see ForkedDevice
        """Refuse: only the other process writes."""
        raise AssertionError("another process writes to this secondary")

    def zero(self, *, offset: int, length: int) -> None:  # noqa: ARG002 - see ForkedDevice
        """Refuse: only the other process writes."""
        raise AssertionError("another process writes to this secondary")

    def flush(self) -> None:
        """Flush all writes that ended before the call.

        If the secondary leaves the fork meanwhile, wait until no call to it is running, then raise
        DeviceFailed: until then its state is HUNG.
        """
        target = self._link.look().next
        while (state := self._link.look()).reached < target or not state.is_in:
            if self._link.is_gone or (not state.is_in and state.is_idle):
                raise DeviceFailed(
                    "it has left the fork, or nbdkit has ended", where="the secondary, offset 0"
                )
            self._sleep(_LOOK_S)
        self._device.flush()
        self.covered = state.reached

    def close(self) -> None:
        """Wait until no call to it is running, let the process close it, and close it here."""
        while not self._link.is_gone and not self._link.look().is_idle:
            self._sleep(_LOOK_S)
        self._link.take_file()
        while not self._link.is_gone and self._link.look().has_file:
            self._sleep(_LOOK_S)
        self._device.close()
