"""Calls to a secondary, the threads that make them, and the ports of a forked volume.

The calls of one secondary are made one at a time, in order, and never with the tracker's lock held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from threading import Condition, Thread
from typing import Final, Protocol

from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.errors import DeviceFailed, MirrorlogError, in_words
from mirrorlog.ports.devices import Data, WritesInOrder
from mirrorlog.producers.forks.fork_states import ForkStateChange
from mirrorlog.producers.forks.forked_write import ForkedWrites

_AT_ONCE: Final = 128
"""So many writes are one call of a device that takes several. Each call has the time limit."""


class CallKind(Enum):
    """The kind of a call."""

    OPEN = auto()
    WRITE = auto()
    FLUSH = auto()
    CLOSE = auto()


class ForkedDevice(Protocol):
    """A secondary that a host writes to, as BlockDevice says.

    flush() also fails if the secondary isn't at its address any more, or if its site doesn't count
    it as its secondary any more: what was written then counts for nothing.
    """

    @property
    def size_bytes(self) -> int:
        """The size when it was opened."""
        ...

    @property
    def secondary_id(self) -> str:
        """What the secondary's site reports of it as long as it is the same (SiteProgress)."""
        ...

    def pwrite(self, offset: int, data: Data) -> None:
        """Write all of `data`."""
        ...

    def zero(self, *, offset: int, length: int) -> None:
        """Make the range read as zeros."""
        ...

    def flush(self) -> None:
        """Make all writes durable that ended before the call."""
        ...

    def close(self) -> None:
        """Release the secondary."""
        ...


class SecondaryOpener(Protocol):
    """Opens the secondary of a volume at a site."""

    def __call__(self, address: str, *, site: str, volume: str) -> ForkedDevice:
        """Open the secondary for writing, and keep other writers on this machine off it.

        Raise BadUse or DeviceFailed if it can't be opened, or if it isn't marked as the secondary
        of the volume at the site.
        """
        ...


@dataclass(frozen=True, slots=True)
class SecondaryAddress:
    """The address of a secondary, whose it is, and the size in bytes that it must have at least."""

    address: str
    site: str
    volume: str
    size_bytes: int
    open_secondary: SecondaryOpener


@dataclass(slots=True, eq=False)
class Call:
    """One call to a secondary.

    requested_s, began_s: when it was requested and when it began, by the monotonic clock.
    device: the device of the call; for OPEN, the device that it has opened.
    forked, contents: of a WRITE. contents: the data of each write; None writes zeros.
    done: how many calls to write have returned; only the worker changes it. seen_done: its value
    when it was looked at last.
    number: of a FLUSH.
    """

    kind: CallKind
    requested_s: float
    device: ForkedDevice | None = None
    address: SecondaryAddress | None = None
    forked: ForkedWrites | None = None
    contents: Sequence[bytes | None] = ()
    done: int = 0
    seen_done: int = 0
    number: int = 0
    began_s: float = 0.0

    def perform(self) -> str | None:
        """Make the call. Return why it failed, or None.

        It raises nothing: whatever a device raises puts the secondary out of the fork, and has no
        other effect.
        """
        try:
            self._perform()
        except MirrorlogError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - a secondary never fails the writer
            return in_words(error)
        return None

    def _perform(self) -> None:
        if self.kind is CallKind.OPEN:
            assert self.address is not None
            self.device = open_secondary(self.address)
            return
        assert self.device is not None
        match self.kind:
            case CallKind.WRITE:
                self._write(self.device)
            case CallKind.FLUSH:
                self.device.flush()
            case CallKind.CLOSE:
                self.device.close()

    def _write(self, device: ForkedDevice) -> None:
        """Do the writes in their order.

        A device that does several with one call leaves the interpreter to the writer meanwhile.
        """
        assert self.forked is not None
        both = zip(self.forked.writes, self.contents, strict=True)
        is_data = len(self.contents) > 1 and None not in self.contents
        if is_data and isinstance(device, WritesInOrder):
            pieces = [(write[1], data) for write, data in both if data is not None]
            for first in range(0, len(pieces), _AT_ONCE):
                device.pwrite_in_order(pieces[first : first + _AT_ONCE])
                self.done += 1
            return
        for (_, offset, length, _, _), data in both:
            if data is None:
                device.zero(offset=offset, length=length)
            else:
                device.pwrite(offset, data)
            self.done += 1


def open_secondary(address: SecondaryAddress) -> ForkedDevice:
    """Open a secondary for writing.

    Raise DeviceFailed if it is smaller than its volume, and what the opener raises.
    """
    device = address.open_secondary(address.address, site=address.site, volume=address.volume)
    if device.size_bytes < address.size_bytes:
        size_bytes = device.size_bytes
        device.close()
        raise DeviceFailed(
            f"the secondary has {size_bytes} bytes, the volume {address.size_bytes}",
            where=f"{address.address}, offset {size_bytes}",
            next="Its site grows it where it can.",
        )
    return device


class SecondaryCalls(Protocol):
    """A secondary, as its worker sees it.

    take() and finish() need the lock of `work`. They never wait.
    """

    @property
    def work(self) -> Condition:
        """The condition, notified when a call may be ready and when no further call comes."""
        ...

    @property
    def is_done(self) -> bool:
        """Return True once no further call comes."""
        ...

    def take(self) -> Call | None:
        """Begin the next call and return it; None if no call is ready."""
        ...

    def finish(self, call: Call, failure: str | None) -> None:
        """End the call that take() returned. failure: why it failed, or None."""
        ...


class Workers(Protocol):
    """Makes the calls, and lets writers wait for them."""

    def serve(self, calls: SecondaryCalls) -> None:
        """Make the calls of this secondary from now on, one after the other."""
        ...

    def wait(self, changed: Condition, timeout_s: float) -> None:
        """Wait until `changed` is notified, `timeout_s` at most. The caller holds its lock."""
        ...


class ThreadWorkers:
    """A thread for each secondary: one that hangs delays no other.

    The threads are daemons: they don't keep the process from ending.
    """

    def serve(self, calls: SecondaryCalls) -> None:
        """Start a thread. It ends when the secondary is done."""
        Thread(target=_make_calls, args=(calls,), name="forked writes", daemon=True).start()

    def wait(self, changed: Condition, timeout_s: float) -> None:
        """Wait on the condition."""
        changed.wait(timeout_s)


def _make_calls(calls: SecondaryCalls) -> None:
    while True:
        with calls.work:
            while (call := calls.take()) is None:
                if calls.is_done:
                    return
                calls.work.wait()
        failure = call.perform()
        with calls.work:
            calls.finish(call, failure)


class LatestReports(Protocol):
    """The last report of each site (mirrorlog/reading/site_reports.py)."""

    def poll(self) -> None:
        """Take the reports that have come, without waiting.

        It may raise a MirrorlogError; the reports taken before stay.
        """
        ...

    def of(self, volume: str) -> Sequence[SiteProgress]:
        """Return the report of each site that has the volume."""
        ...


@dataclass(frozen=True, slots=True)
class ForkPorts:
    """The world outside of a forked volume.

    on_state_change: called with the tracker's lock held when the state of a secondary changes.
    """

    open_secondary: SecondaryOpener
    workers: Workers
    reports: LatestReports
    on_state_change: Callable[[ForkStateChange], None] = lambda _: None
