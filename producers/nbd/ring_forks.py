"""The forked secondaries in the ring: how the host and nbdkit share them (fork_state.h)."""

from __future__ import annotations

import ctypes
import os
import socket
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Final, Protocol, runtime_checkable

from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.forks.fork_calls import ForkedDevice
from mirrorlog.producers.forks.fork_links import LinkState
from mirrorlog.producers.forks.forked_volume import ForkedVolume
from mirrorlog.producers.forks.forked_write import MAX_OPEN_WRITES
from mirrorlog.producers.nbd.ring import MESSAGE, Ring

MOST_FORKS: Final = 8
"""ML_MOST_FORKS of fork_state.h."""
FILE_POSITION: Final = 1 << 61
"""ML_FILE_POSITION of ring.h."""
_ANY_ENDS: Final = (1 << 64) - 1
_BYTES, _WRITES = 10001, 10002
"""ML_FORK_BYTES and ML_FORK_WRITES of fork_state.h."""


class ForkFields(ctypes.Structure):
    """struct ml_fork of fork_state.h."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("is_in", "is_idle", "error", "unused")),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "joined",
                "left",
                "reached",
                "busy_from",
                "busy_to",
                "flushed",
                "queued_bytes",
                "file",
            )
        ),
    ]


@runtime_checkable
class HasDescriptor(Protocol):
    """A secondary that is a file or device of this machine."""

    def fileno(self) -> int:
        """Return its descriptor."""
        ...


class RingForks:
    """The secondaries of one volume. links: by site."""

    def __init__(
        self, ring: Ring, control: socket.socket, forks: ForkedVolume, limit_bytes: int
    ) -> None:
        """Prepare the ring, before nbdkit starts. control: the host's end of the socket.

        limit_bytes: see host_fork_queue_bytes.
        """
        self.ring: Final = ring
        self.control: Final = control
        self.limit_bytes: Final = limit_bytes
        self.lock: Final = Lock()
        self.is_gone = False
        self.files = 0
        at, library = ring.address_and_library
        sites = [secondary.site for secondary in forks.secondaries]
        code = library.ml_ring_fork(
            at,
            *map(
                ctypes.c_uint64,
                (
                    len(sites),
                    forks.mode.waits_for,
                    forks.mode.blocks_writer,
                    limit_bytes,
                    MAX_OPEN_WRITES,
                ),
            ),
        )
        if code:
            raise OSError(code, os.strerror(code))
        self.links: Final = {site: RingLink(self, index) for index, site in enumerate(sites)}

    def note_gone(self) -> None:
        """Note that nbdkit has ended. Nothing changes in the ring any more; it may be closed."""
        states = {link: link.look() for link in self.links.values()}
        with self.lock:
            for link, state in states.items():
                link.last = state
            self.is_gone = True


class RingLink:
    """SecondaryLink to nbdkit's filter. Any thread may call it.

    last: the last state, once nbdkit has ended.
    """

    def __init__(self, forks: RingForks, index: int) -> None:
        self._forks: Final = forks
        self._index: Final = ctypes.c_uint64(index)
        self._position: Final = FILE_POSITION | index
        self._at, self._library = forks.ring.address_and_library
        self.last: LinkState | None = None

    @property
    def is_gone(self) -> bool:
        """See SecondaryLink."""
        return self._forks.is_gone

    def look(self) -> LinkState:
        """See SecondaryLink."""
        fork, next_number = ForkFields(), ctypes.c_uint64()
        with self._forks.lock:
            if self.last is not None:
                return self.last
            self._library.ml_forks_look(
                self._at, self._index, ctypes.byref(fork), ctypes.byref(next_number)
            )
        is_in = bool(fork.is_in)
        return LinkState(
            is_in=is_in,
            is_idle=bool(fork.is_idle),
            failure=None if is_in or not fork.error else self._reason(fork.error),
            next=next_number.value,
            joined=fork.joined,
            left=fork.left,
            reached=fork.reached,
            busy=range(fork.busy_from, fork.busy_to),
            has_file=bool(fork.file),
        )

    def _reason(self, code: int) -> str:
        if code == _BYTES:
            return f"more than {self._forks.limit_bytes} bytes wait for it"
        if code == _WRITES:
            return f"{MAX_OPEN_WRITES} writes to it aren't flushed"
        return f"writing to it failed: {os.strerror(code)}"

    def join(self, ends: int | None) -> bool:
        """See SecondaryLink."""
        most = ctypes.c_uint64(_ANY_ENDS if ends is None else ends)
        with self._forks.lock:
            return self.last is None and bool(
                self._library.ml_forks_join(self._at, self._index, most)
            )

    def ends(self) -> int:
        """See SecondaryLink. Once nbdkit has ended, it doesn't matter: nobody can join."""
        with self._forks.lock:
            return 0 if self.last is not None else int(self._library.ml_forks_ends(self._at))

    def leave(self) -> None:
        """See SecondaryLink."""
        with self._forks.lock:
            if self.last is None:
                self._library.ml_forks_leave(self._at, self._index)
            elif self.last.is_in:
                self.last = replace(self.last, is_in=False, left=self.last.next)

    def note_flushed(self, number: int) -> None:
        """See SecondaryLink."""
        with self._forks.lock:
            if self.last is None:
                self._library.ml_forks_flushed(self._at, self._index, ctypes.c_uint64(number))

    def send_file(self, device: ForkedDevice) -> None:
        """Send nbdkit the descriptor, which shares the locks of the file with the host's own."""
        assert isinstance(device, HasDescriptor)
        with self._forks.lock:
            self._forks.files += 1
            message = MESSAGE.pack(0, self._position, self._forks.files, 0)
        try:
            socket.send_fds(self._forks.control, [message], [device.fileno()])
        except OSError as error:
            raise DeviceFailed(
                f"nbdkit can't be given the secondary: {error}", where="the secondary, offset 0"
            ) from error

    def take_file(self) -> None:
        """See SecondaryLink."""
        with suppress(OSError):
            self._forks.control.send(MESSAGE.pack(0, self._position, 0, 0))
