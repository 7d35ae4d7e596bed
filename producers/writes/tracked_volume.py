"""A volume that remembers what is written to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import ClassVar, Final, Protocol, Self, Unpack

from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import Data, check_range
from mirrorlog.producers.open_options import OpenOptions
from mirrorlog.producers.writes.tracker_state import OpenVolume
from mirrorlog.producers.writes.volume_file import VolumeFile
from mirrorlog.producers.writes.write_tracker import WriteTracker
from mirrorlog.settings import Settings

_WRITE: Final = ExtentKind.WRITE


class Opener(Protocol):
    """The type of open_volume()."""

    def __call__(
        self, name: str, settings: Settings | None = None, **options: Unpack[OpenOptions]
    ) -> TrackedVolume: ...


class TrackedVolume:
    """Any number of threads may call it; a range that two of them write at once holds a mix of both, as on any disk.

    Arguments come in the order of os.pwrite(2) and libnbd: what or how much, then where. fua (force unit access): what is
    written is durable on the primary when the call returns.

    Errors of a write: DeviceFailed where it lies outside the volume (nothing was touched), where the primary or the
    activity log failed; KafkaFailed where the broker refuses commands for good, or where there is no room while it is away
    and host_when_full is "fail"; BadUse once it is closed. Whatever it raises, the range may have been written: it is in the
    tracking log or in the activity log.
    """

    _opener: ClassVar[Opener]

    def __init__(
        self, opened: OpenVolume, tracker: WriteTracker, close: Callable[[str], None]
    ) -> None:
        self._opened: Final = opened
        self._tracker: Final = tracker
        self._close: Final = close
        # What each write needs, looked up once.
        self._lock_free: Final = opened.lock_free
        self._note_ended: Final = tracker.note_ended
        self._coarse_clock: Final = tracker.coarse_clock
        self._write: Final = opened.device.pwrite
        self._region_bytes: Final = tracker.region_bytes
        self._batch_extents: Final = tracker.batch_extents
        self._size_bytes: Final = opened.volume.size_bytes

    @classmethod
    def open(
        cls, name: str, settings: Settings | None = None, **options: Unpack[OpenOptions]
    ) -> TrackedVolume:
        """Open a volume as open_volume() does (docs/host-api.md)."""
        return cls._opener(name, settings, **options)

    @classmethod
    def register_opener(cls, opener: Opener) -> None:
        """Let open() call `opener`. volume_session.py does so: it stands above this module."""
        cls._opener = staticmethod(opener)

    def as_file(self) -> VolumeFile:
        """The volume as a raw file of Python's io, at offset 0; there may be any number of them."""
        return VolumeFile(self)

    @property
    def volume(self) -> Volume:
        """Its description."""
        return self._opened.volume

    @property
    def size_bytes(self) -> int:
        """The volume's size."""
        return self._opened.volume.size_bytes

    @property
    def tracker_and_volume(self) -> tuple[WriteTracker, OpenVolume]:
        """For whoever lets another process write to the primary, and keeps the books for it (nbd/gate.py)."""
        return self._tracker, self._opened

    def pread(self, length: int, offset: int) -> Data:
        """Exactly `length` bytes from the primary."""
        self._check_range(offset, length)
        return self._opened.device.pread(offset=offset, length=length)

    def pwrite(self, data: Data, offset: int, *, fua: bool = False) -> None:
        """Writes all of `data`; durable on the primary after the next flush()."""
        view = data if isinstance(data, bytes) else memoryview(data).cast("B")
        end, size = offset + len(view), self._region_bytes
        number = offset // size
        if offset < end <= self._size_bytes and (end - 1) // size == number:
            lock_free = self._lock_free
            flight = (_WRITE, offset, end - offset, self._coarse_clock.now_us, ())
            lock_free.in_flight[id(flight)] = flight  # W1
            if number in lock_free.writable:  # W2
                try:
                    self._write(offset, view)  # W3
                finally:
                    lock_free.ended.append(flight)  # W4
                    if (
                        lock_free.ended_since_s is None
                        or len(lock_free.ended) >= self._batch_extents
                    ):
                        self._note_ended(self._opened)
                if fua:
                    self.flush()
                return
            del lock_free.in_flight[id(flight)]
        for start, piece in self._pieces(offset, len(view)):
            part = memoryview(view)[start - offset : start - offset + piece]
            self._change(ExtentKind.WRITE, start, piece, partial(self._write, start, part), part)
        if fua:
            self.flush()

    def zero(self, length: int, offset: int, *, fua: bool = False) -> None:
        """The range reads as zeros."""
        for start, piece in self._pieces(offset, length):
            self._change(
                ExtentKind.ZERO,
                start,
                piece,
                partial(self._opened.device.zero, offset=start, length=piece),
            )
        if fua:
            self.flush()

    def trim(self, length: int, offset: int, *, fua: bool = False) -> None:
        """The range isn't needed any more; it reads as zeros."""
        for start, piece in self._pieces(offset, length):
            self._change(
                ExtentKind.DISCARD,
                start,
                piece,
                partial(self._opened.device.zero, offset=start, length=piece),
            )
        if fua:
            self.flush()

    def check(self) -> None:
        """Raises why no write may begin any more, where that is so."""
        if self._opened.failed is not None:
            raise self._opened.failed

    def flush(self) -> None:
        """Writes that ended before the call are durable on the primary when it returns, and on as many of its secondaries in
        the fork as the mode waits for. Publishes nothing."""
        self._tracker.flush_all(self._opened)

    def close(self) -> None:
        """Host.close() for this volume alone. Closing twice is harmless."""
        self._close(self._opened.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _change(
        self,
        kind: ExtentKind,
        offset: int,
        length: int,
        write: Callable[[], None],
        data: Data | None = None,
    ) -> None:
        """The order of a write (invariants 1 and 8); lock_free_writes.py has that of a write that takes no lock,
        forked_volume.py that of one that goes to secondaries, too.

        1. Its regions are durable in the activity log: after a crash they are published as dirty.
        2. It is registered as in flight: from now on whatever batch closes names it, for a reader may see its data.
        3. The data goes to the primary.
        4. Its extent joins the open batch, and it is no longer in flight. That is so when step 3 raised, too: nobody
           knows then what the range holds, and unknown is dirty.
        """
        flight = self._tracker.begin(self._opened, kind, offset, length)  # 1, 2
        succeeded = False
        try:
            write()  # 3
            succeeded = True
        finally:
            self._tracker.end(self._opened, flight, data, succeeded=succeeded)  # 4

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """(offset, length) of parts that the activity log has room for; mostly one, the whole."""
        self._check_range(offset, length)
        most, end = self._tracker.max_write_bytes, offset + length
        while offset < end:
            piece_end = min(offset - offset % most + most, end)
            yield offset, piece_end - offset
            offset = piece_end

    def _check_range(self, offset: int, length: int) -> None:
        check_range(
            f"volume {self._opened.name}", size_bytes=self.size_bytes, offset=offset, length=length
        )
