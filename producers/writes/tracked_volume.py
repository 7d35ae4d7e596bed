"""A volume that records what is written to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Unpack

from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.closing import ClosesOnExit
from mirrorlog.ports.devices import Data, check_range
from mirrorlog.producers.batches.batch import InFlightTuple
from mirrorlog.producers.open_options import OpenOptions
from mirrorlog.producers.writes.tracker_state import OpenVolume
from mirrorlog.producers.writes.volume_file import VolumeFile
from mirrorlog.producers.writes.write_tracker import WriteTracker
from mirrorlog.settings import Settings

_WRITE: Final = int(ExtentKind.WRITE)
_FORKED_TOGETHER: Final = 256
"""So many lock-free writes go to the secondaries together, unless a tick comes first: then their
worker is woken once for all."""


class TrackedVolume(ClosesOnExit):
    """An open volume. Any number of threads may call it.

    A range that two threads write at once holds a mix of both, as on any disk. Arguments are
    positional and in the order of os.pwrite(2) and libnbd: the data or the length in bytes, then
    the offset in bytes. With `fua` (force unit access), the change is durable on the primary when
    the call returns.

    A write raises:

    - DeviceFailed if the range isn't inside the volume (then nothing was touched), or if the
      primary or the activity log failed;
    - KafkaFailed if the broker refuses commands for good, or if Kafka is away, there is no room,
      and `host_when_full` is "fail";
    - BadUse if the volume is closed.

    Whatever a write raises, its range may have been written. The range is then in the tracking log
    or in the activity log.
    """

    def __init__(
        self, opened: OpenVolume, tracker: WriteTracker, close: Callable[[str], None]
    ) -> None:
        """Create the object; only Host does. close: called by close() with the volume's name."""
        self._opened: Final = opened
        self._tracker: Final = tracker
        self._close: Final = close
        # What each write needs, looked up once.
        self._lock_free: Final = opened.lock_free
        self._is_forked: Final = opened.forks is not None
        self._begin: Final = opened.lock_free.in_flight.append
        self._end: Final = opened.lock_free.ended.append
        self._ended: Final = opened.lock_free.ended
        self._coarse_clock: Final = tracker.coarse_clock
        self._write: Final = opened.device.pwrite
        self._region_bytes: Final = tracker.region_bytes
        self._batch_extents: Final = tracker.batch_extents
        self._forked_bytes: Final = tracker.forked_together_bytes
        self._size_bytes: Final = opened.volume.size_bytes

    @staticmethod
    def open(
        name: str, settings: Settings | None = None, **options: Unpack[OpenOptions]
    ) -> TrackedVolume:
        """Open a volume as open_volume() does (docs/host-api.md)."""
        # open_volume() makes objects of this class, so its module can't be imported on top.
        from mirrorlog.producers.volume_session import open_volume

        return open_volume(name, settings, **options)

    def as_file(self) -> VolumeFile:
        """Return the volume as a new raw file of Python's io, at offset 0."""
        return VolumeFile(self)

    @property
    def volume(self) -> Volume:
        """The volume's description when it was opened."""
        return self._opened.volume

    @property
    def size_bytes(self) -> int:
        """The volume's size in bytes."""
        return self._opened.volume.size_bytes

    @property
    def tracker_and_volume(self) -> tuple[WriteTracker, OpenVolume]:
        """The tracker and its entry for this volume.

        They are for code that lets another process write to the primary (nbd/region_grants.py), and
        for the session.
        """
        return self._tracker, self._opened

    def pread(self, length: int, offset: int) -> Data:
        """Return exactly `length` bytes from the primary."""
        self._check_range(offset=offset, length=length)
        return self._opened.device.pread(offset=offset, length=length)

    def pwrite(self, data: Data, offset: int, *, fua: bool = False) -> None:
        """Write all of `data`. The next flush() makes it durable on the primary.

        The primary is written to without a lock if one hot region holds the range, and no fork
        makes the writer wait (batches/lock_free_writes.py, W0 to W4). Then the first write of a
        batch calls WriteTracker.note_ended(), which takes the lock. So does the one that fills the
        batch; it also sends the batch. Any other write goes through _change().
        """
        view = data if data.__class__ is bytes else memoryview(data).cast("B")
        length, size = len(view), self._region_bytes
        number = offset // size
        lock_free = self._lock_free
        if (
            number in lock_free.writable  # W0
            and 0 < length <= (number + 1) * size - offset
            and offset + length <= self._size_bytes
        ):
            write = (_WRITE, offset, length, self._coarse_clock.now_us, ())
            self._begin(write)  # W1
            if number in lock_free.writable and (  # W2
                not self._is_forked or lock_free.enter(write)  # F1
            ):
                if self._is_forked:
                    self._write_forked(write, view)
                else:
                    try:
                        self._write(offset, view)  # W3
                    finally:
                        self._end(write)  # W4
                        if (
                            lock_free.ended_since_s is None
                            or len(self._ended) >= self._batch_extents
                        ):
                            self._tracker.note_ended(self._opened)
                if fua:
                    self.flush()
                return
            self._tracker.back_out(self._opened, write)
        for start, length in self._pieces(offset=offset, length=len(view)):
            part = memoryview(view)[start - offset : start - offset + length]
            self._change(ExtentKind.WRITE, part, offset=start, length=length)
        if fua:
            self.flush()

    def zero(self, length: int, offset: int, *, fua: bool = False) -> None:
        """Make the range read as zeros. The next flush() makes that durable on the primary."""
        for start, part_length in self._pieces(offset=offset, length=length):
            self._change(ExtentKind.ZERO, None, offset=start, length=part_length)
        if fua:
            self.flush()

    def trim(self, length: int, offset: int, *, fua: bool = False) -> None:
        """Discard the range, which isn't needed any more. It reads as zeros, as after zero()."""
        for start, part_length in self._pieces(offset=offset, length=length):
            self._change(ExtentKind.DISCARD, None, offset=start, length=part_length)
        if fua:
            self.flush()

    def check(self) -> None:
        """Raise the error because of which no write may begin any more, if there is one."""
        if self._opened.failed is not None:
            raise self._opened.failed

    def flush(self) -> None:
        """Make the writes that ended before durable on the primary.

        They are durable too on as many secondaries in the fork as the fork mode requires. Nothing
        is published. Raise DeviceFailed if the primary fails; then no write begins any more.
        """
        self._tracker.flush_all(self._opened)

    def close(self) -> None:
        """Publish everything, and end the session on this volume. A second call does nothing.

        The host makes the handle: one from open_volume() ends its host too.
        """
        self._close(self._opened.name)

    def _change(
        self,
        kind: ExtentKind,
        data: Data | None,
        *,
        offset: int,
        length: int,
    ) -> None:
        """Do the steps of a write that takes the lock, in this order (invariants 1 and 8).

        lock_free_writes.py has the order of a write that takes no lock, forked_volume.py that of
        one that goes to secondaries too.

        1. WriteTracker.begin(): the write's regions are durable in the activity log. After a crash
           they are published as dirty.
        2. The write is registered as in flight. From now on every batch that closes names it,
           because a reader may see its data.
        3. The data, or zeros, go to the primary.
        4. WriteTracker.end(): the extent joins the open batch, and the write is no longer in
           flight. So it does if step 3 raised: then nobody knows what the range holds, and
           unknown is dirty.

        data: what a WRITE writes; None for zeros.
        """
        write = self._tracker.begin(self._opened, kind, offset=offset, length=length)  # 1, 2
        succeeded = False
        try:
            if data is None:
                self._opened.device.zero(offset=offset, length=length)  # 3
            else:
                self._write(offset, data)  # 3
            succeeded = True
        finally:
            self._tracker.end(self._opened, write, data, succeeded=succeeded)  # 4

    def _write_forked(self, write: InFlightTuple, data: Data) -> None:
        """Do W3, F2 and F3 of a lock-free write to a forked volume (batches/lock_free_writes.py).

        The secondaries get the write at the next tick, or when _FORKED_TOGETHER writes wait for
        that, or about so much data as the tracker says: as if all were as long as this one.
        """
        lock_free, content = self._lock_free, None
        try:
            self._write(write[1], data)  # W3
            content = bytes(data)  # the buffer is the caller's
        finally:
            lock_free.to_fork.append((write, content))  # F2
            del lock_free.to_primary[id(write)]  # F3
            waiting = len(lock_free.to_fork)
            if waiting >= _FORKED_TOGETHER or waiting * write[2] >= self._forked_bytes:
                self._tracker.collect_forked(self._opened)

    def _pieces(self, *, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of the parts of the range that the activity log has room for.

        Mostly there is one part, the whole range.
        """
        self._check_range(offset=offset, length=length)
        max_bytes, end = self._tracker.max_write_bytes, offset + length
        while offset < end:
            part_end = min(offset - offset % max_bytes + max_bytes, end)
            yield offset, part_end - offset
            offset = part_end

    def _check_range(self, *, offset: int, length: int) -> None:
        check_range(
            f"volume {self._opened.name}", size_bytes=self.size_bytes, offset=offset, length=length
        )
