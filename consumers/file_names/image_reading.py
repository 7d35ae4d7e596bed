"""A device as pytsk3 reads it: through the port, with a cache, and with its own failures kept."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import pytsk3

from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import BlockDevice

_CHUNK_BYTES: Final = 1 << 18
_CHUNKS: Final = 256


class CachedDevice:
    """Reads a device in pieces of 256 KiB, and keeps the last 64 MiB of them.

    pytsk3 asks for 64 KiB at a time, and a device may be on the other side of a network.
    """

    def __init__(self, device: BlockDevice) -> None:
        self.size_bytes: Final = device.size_bytes
        self.failure: DeviceFailed | None = None
        self._device: Final = device
        self._chunks: Final[OrderedDict[int, bytes]] = OrderedDict()

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there; fewer at the device's end, and none outside it.

        Raise DeviceFailed, which stays in `failure`.
        """
        end = min(offset + length, self.size_bytes)
        if offset < 0 or offset >= end:
            return b""
        first, last = offset // _CHUNK_BYTES, (end - 1) // _CHUNK_BYTES
        data = b"".join(self._chunk(number) for number in range(first, last + 1))
        return data[offset - first * _CHUNK_BYTES : end - first * _CHUNK_BYTES]

    def _chunk(self, number: int) -> bytes:
        known = self._chunks.get(number)
        if known is not None:
            self._chunks.move_to_end(number)
            return known
        start = number * _CHUNK_BYTES
        length = min(_CHUNK_BYTES, self.size_bytes - start)
        try:
            data = bytes(self._device.pread(offset=start, length=length))
        except DeviceFailed as error:
            self.failure = error
            raise
        self._chunks[number] = data
        if len(self._chunks) > _CHUNKS:
            self._chunks.popitem(last=False)
        return data


class DeviceImage(pytsk3.Img_Info):  # type: ignore[misc]
    """The image that pytsk3 is given. It never guesses a format, and never opens another file."""

    def __init__(self, device: CachedDevice) -> None:
        self._cached = device
        super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there. Zeros stand for what lies after the device's end."""
        return self._cached.read(offset, length).ljust(length, b"\0")

    def get_size(self) -> int:
        """Return the bytes of the device."""
        return self._cached.size_bytes

    def close(self) -> None:
        """Do nothing: whoever opened the device closes it."""
