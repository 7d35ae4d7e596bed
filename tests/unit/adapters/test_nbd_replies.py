"""An NBD server that answers wrongly: no read returns less than it was asked for."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
from nbd_servers import Nbdkit, skip_without

from mirrorlog.adapters.addresses import open_device
from mirrorlog.errors import DeviceFailed

SIZE = 1 << 20
HAS_FLAGS_AND_FLUSH = 0b101
STRUCTURED, DONE = 0x668E33EF, 1
NONE, DATA, HOLE, ERROR = 0, 1, 2, 0x8001
EIO, EINVAL = 5, 22

# The NBD protocol (NetworkBlockDevice/nbd, doc/proto.md), "Fixed newstyle negotiation".


def serve(listener: socket.socket, answer: Callable[[bytes, int, int], bytes]) -> None:
    """Serve one client. `answer` gets the handle, offset and length of each read."""
    with suppress(OSError), listener.accept()[0] as link:
        negotiate(link)
        while True:
            request = take(link, 28)
            _, _, kind, handle, offset, length = struct.unpack(">IHH8sQI", request)
            if kind != 0:  # not a read
                return
            link.sendall(answer(handle, offset, length))


def negotiate(link: socket.socket) -> None:
    link.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
    take(link, 4)
    while True:
        _, option, length = struct.unpack(">8sII", take(link, 16))
        take(link, length)
        replies = []
        if option == 7:  # NBD_OPT_GO
            replies.append((3, struct.pack(">HQH", 0, SIZE, HAS_FLAGS_AND_FLUSH)))
        is_known = option in (7, 8)  # 8: NBD_OPT_STRUCTURED_REPLY
        replies.append((1 if is_known else 0x80000001, b""))
        for reply, payload in replies:
            header = struct.pack(">QIII", 0x3E889045565A9, option, reply, len(payload))
            link.sendall(header + payload)
        if option == 7:
            return


def take(link: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = link.recv(length - len(data))
        if not piece:
            raise OSError("the client is gone")
        data += piece
    return data


def chunk(handle: bytes, kind: int, payload: bytes, flags: int = DONE) -> bytes:
    return struct.pack(">IHH8sI", STRUCTURED, flags, kind, handle, len(payload)) + payload


def data(handle: bytes, offset: int, length: int, flags: int = DONE) -> bytes:
    return chunk(handle, DATA, struct.pack(">Q", offset) + b"x" * length, flags)


WRONG: dict[str, Callable[[bytes, int, int], bytes]] = {
    "half of the data": lambda handle, offset, length: data(handle, offset, length // 2),
    "no data at all": lambda handle, _offset, _length: chunk(handle, NONE, b""),
    "data beyond the end": lambda handle, offset, length: data(handle, offset + 1, length),
    "data, then an error": lambda handle, offset, length: (
        data(handle, offset, length, 0) + chunk(handle, ERROR, struct.pack(">IH", EIO, 3) + b"bad")
    ),
    "an error": lambda handle, _offset, _length: chunk(
        handle, ERROR, struct.pack(">IH", EINVAL, 0)
    ),
    "no reply": lambda _handle, _offset, _length: b"\0" * 16,
}


@pytest.fixture
def address(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    skip_without(Nbdkit(tmp_path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        thread = Thread(target=serve, args=(listener, request.param), daemon=True)
        thread.start()
        yield f"nbd+unix:///?socket={tmp_path / 's'}"
        thread.join()


@pytest.mark.parametrize("address", WRONG.values(), ids=WRONG.keys(), indirect=True)
def test_a_wrong_reply_fails_the_read(address: str) -> None:
    with open_device(address, writable=False) as device:
        with pytest.raises(DeviceFailed) as caught:
            device.pread(offset=4096, length=8192)
        assert caught.value.where.endswith(", offset 4096")


def in_pieces(handle: bytes, offset: int, length: int) -> bytes:
    hole = struct.pack(">QI", offset, length // 4)
    rest = length - length // 4
    return chunk(handle, HOLE, hole, 0) + data(handle, offset + length // 4, rest)


@pytest.mark.parametrize("address", [in_pieces], indirect=True)
def test_a_reply_may_come_in_pieces(address: str) -> None:
    with open_device(address, writable=False) as device:
        assert device.pread(offset=4096, length=8192) == bytes(2048) + b"x" * 6144
