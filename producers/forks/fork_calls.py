"""Calls to a secondary, and who makes them: one at a time, in order, never with the tracker's lock held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from threading import Condition, Thread
from typing import Protocol

from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.errors import DeviceFailed, MirrorlogError
from mirrorlog.ports.devices import BlockDevice, DeviceOpener
from mirrorlog.producers.forks.fork_plans import ForkedWrite


class CallKind(Enum):
    """What is asked of a secondary."""

    OPEN = auto()
    WRITE = auto()
    FLUSH = auto()
    CLOSE = auto()


@dataclass(frozen=True, slots=True)
class SecondaryAddress:
    """Where a secondary is, and how large it must be at least."""

    address: str
    size_bytes: int
    open_device: DeviceOpener


@dataclass(slots=True, eq=False)
class Call:
    """One call. write, data: of a WRITE; data None: zeros. number: of a FLUSH. since_s: when it was asked for; began_s: when it
    began. device: what it is made on; of an OPEN, what it has opened."""

    kind: CallKind
    since_s: float
    device: BlockDevice | None = None
    address: SecondaryAddress | None = None
    forked_write: ForkedWrite | None = None
    data: bytes | None = None
    number: int = 0
    began_s: float = 0.0

    def perform(self) -> str | None:
        """Makes it; why it failed, or None. Whatever a device raises puts a secondary out of the fork, and nothing else."""
        try:
            self._perform()
        except MirrorlogError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - a secondary never fails the writer
            return f"{type(error).__name__}: {error}"
        return None

    def _perform(self) -> None:
        if self.kind is CallKind.OPEN:
            assert self.address is not None
            self.device = open_secondary(self.address)
            return
        assert self.device is not None
        match self.kind:
            case CallKind.WRITE:
                assert self.forked_write is not None
                write = self.forked_write.write
                if self.data is None:
                    self.device.zero(offset=write.offset, length=write.length)
                else:
                    self.device.pwrite(write.offset, self.data)
            case CallKind.FLUSH:
                self.device.flush()
            case CallKind.CLOSE:
                self.device.close()


def open_secondary(address: SecondaryAddress) -> BlockDevice:
    """The secondary, open for writing; DeviceFailed where it is smaller than its volume."""
    device = address.open_device(address.address, writable=True)
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
    """A secondary, as a worker sees it. take() and finish() need the lock of `work`, and never wait."""

    @property
    def work(self) -> Condition:
        """Notified when there may be something to take, or when nothing comes any more."""
        ...

    @property
    def is_done(self) -> bool:
        """Nothing comes any more."""
        ...

    def take(self) -> Call | None:
        """The next call, which has begun with that; None where there is none now."""
        ...

    def finish(self, call: Call, failure: str | None) -> None:
        """It has ended."""
        ...


class Workers(Protocol):
    """Who makes the calls, and how a writer waits for them."""

    def serve(self, hand: SecondaryCalls) -> None:
        """From now on somebody makes the calls of this secondary, one after the other."""
        ...

    def wait(self, changed: Condition, timeout_s: float) -> None:
        """Until `changed` is notified, or so long; its lock is held before and after."""
        ...


class ThreadWorkers:
    """A thread for each secondary: one that hangs keeps none but itself. They don't keep the process from ending."""

    def serve(self, hand: SecondaryCalls) -> None:
        """Starts one; it ends with its secondary."""
        Thread(target=_work, args=(hand,), name="forked writes", daemon=True).start()

    def wait(self, changed: Condition, timeout_s: float) -> None:
        """Waits."""
        changed.wait(timeout_s)


def _work(hand: SecondaryCalls) -> None:
    while True:
        with hand.work:
            while (call := hand.take()) is None:
                if hand.is_done:
                    return
                hand.work.wait()
        failure = call.perform()
        with hand.work:
            hand.finish(call, failure)


class LatestReports(Protocol):
    """What sites last reported (mirrorlog/site_reports.py)."""

    def poll(self) -> None:
        """Takes what has come, without waiting. May raise a MirrorlogError: then what is known stays."""
        ...

    def of(self, volume: str) -> Sequence[SiteProgress]:
        """Of each site that has the volume."""
        ...
