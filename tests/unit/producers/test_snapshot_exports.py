"""A snapshot over NBD is the primary as of its position, while clients write and zero.

Each writer has blocks of its own and writes them one after the other, each time with the next
number. So the image of a snapshot shows through which number it holds each writer's writes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event, Thread

import pytest
from deadlines import wait_until
from served_volume import ServedVolume, drawn_blocks, native_libraries

from mirrorlog.domain.snapshots import LiveExport, parse_description
from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.nbd.native import NativeLibraries

BLOCK = 4096
BLOCKS = 128
WRITERS = 3
SNAPSHOTS = 8


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> NativeLibraries:
    """Return the libraries, built once."""
    return native_libraries(tmp_path_factory.mktemp("native"))


@pytest.fixture
def served(native: NativeLibraries, tmp_path: Path) -> Iterator[ServedVolume]:
    """Yield a served volume."""
    with ServedVolume(native, tmp_path, BLOCKS * BLOCK) as volume:
        yield volume


@dataclass
class Write:
    """One write of a block. number: of the writer; content: 0 for zeros."""

    block: int
    number: int
    content: int
    began_s: float
    ended_s: float = float("inf")


@dataclass
class Writer:
    """Writes to every WRITERS-th block until it is stopped."""

    served: ServedVolume
    first: int
    stopped: Event
    writes: list[Write] = field(default_factory=list)
    failure: BaseException | None = None

    def run(self) -> None:
        random = Random(self.first)
        blocks = drawn_blocks(random, range(self.first, BLOCKS, WRITERS))
        try:
            with self.served.connect(writable=True) as device:
                while not self.stopped.is_set():
                    number = len(self.writes) + 1
                    content = 0 if random.random() < 0.1 else number
                    write = Write(next(blocks), number, content, time.monotonic())
                    self.writes.append(write)
                    if content:
                        device.pwrite(write.block * BLOCK, content.to_bytes(8, "big") * 512)
                    else:
                        device.zero(offset=write.block * BLOCK, length=BLOCK)
                    write.ended_s = time.monotonic()
        except BaseException as error:
            self.failure = error
            raise

    def images(self) -> Iterator[tuple[int, dict[int, int]]]:
        """Yield, for each number of writes, the content of each block after them."""
        contents = dict.fromkeys(range(self.first, BLOCKS, WRITERS), 0)
        yield 0, contents
        for write in list(self.writes):
            contents[write.block] = write.content
            yield write.number, contents


@dataclass
class Writers:
    served: ServedVolume

    def __enter__(self) -> list[Writer]:
        self.stopped = Event()
        self.writers = [Writer(self.served, first, self.stopped) for first in range(WRITERS)]
        self.threads = [Thread(target=writer.run) for writer in self.writers]
        for thread in self.threads:
            thread.start()
        return self.writers

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        assert [writer.failure for writer in self.writers] == [None] * WRITERS


def numbers_in(image: dict[int, int], writer: Writer) -> set[int]:
    """Return the numbers of writes after which the writer's blocks are as in the image."""
    own = {block: image[block] for block in range(writer.first, BLOCKS, WRITERS)}
    return {number for number, contents in writer.images() if contents == own}


def check_image(served: ServedVolume, writers: list[Writer], data: bytes, position: int) -> None:
    """Check that the image is as of one moment, and that its position is that of this moment."""
    image = {
        block: int.from_bytes(data[block * BLOCK : block * BLOCK + 8], "big")
        for block in range(BLOCKS)
    }
    topic = list(served.commands.topic)
    named_through, named_after = (
        {
            block
            for command in part
            for extent in command.extents
            for block in range(extent.offset // BLOCK, -(-extent.end // BLOCK))
        }
        for part in (topic[: position + 1], topic[position + 1 :])
    )
    began, missing = [0.0], [float("inf")]
    for writer in writers:
        numbers = numbers_in(image, writer)
        assert numbers, f"the image holds no prefix of writer {writer.first}'s writes"
        held = writer.writes[: min(numbers)]
        later = writer.writes[max(numbers) :]
        assert {write.block for write in held} <= named_through
        assert {write.block for write in later} <= named_after
        began += [write.began_s for write in held]
        missing += [write.ended_s for write in later]
    assert max(began) < min(missing), "two moments in one image"


@pytest.mark.parametrize("is_slow", [False, True])
def test_each_snapshot_is_the_primary_as_of_its_position(
    native: NativeLibraries, tmp_path: Path, is_slow: bool
) -> None:
    with ServedVolume(native, tmp_path, BLOCKS * BLOCK, is_slow=is_slow) as served:
        check_snapshots(served)


def check_snapshots(served: ServedVolume) -> None:
    images = []
    with Writers(served) as writers, ExitStack() as stack:

        def count_writes() -> int:
            return sum(len(writer.writes) for writer in writers)

        def wait_for_more_writes() -> None:
            wanted = count_writes() + 25
            wait_until(lambda: count_writes() >= wanted, every_s=0.001)

        for number in range(SNAPSHOTS):
            device, described = served.snapshot(f"s{number}")
            stack.enter_context(device)
            assert described.volume == "v"
            at_once = bytes(device.pread(offset=0, length=BLOCKS * BLOCK))
            wait_for_more_writes()
            assert device.pread(offset=0, length=BLOCKS * BLOCK) == at_once
            assert not any(without(at_once, device.allocated()))
            images.append((described, at_once))
        with pytest.raises(DeviceFailed, match="connecting"):
            served.snapshot("one too many")
    assert len({described.number for described, _ in images}) == SNAPSHOTS
    positions = [described.position for described, _ in images]
    assert positions == sorted(positions)
    served.host.drain()
    for described, data in images:
        check_image(served, writers, data, described.position)
    assert any(any(data) for _, data in images)


def without(data: bytes, ranges: Iterable[tuple[int, int]]) -> bytes:
    """Return the data without these ranges."""
    kept = bytearray(data)
    for offset, length in ranges:
        kept[offset : offset + length] = bytes(length)
    return bytes(kept)


def test_a_snapshot_says_where_it_is_zeros(served: ServedVolume) -> None:
    with served.connect(writable=True) as live:
        live.pwrite(32 * BLOCK, b"a" * 8 * BLOCK)
        snapshot, _ = served.snapshot("t")
        live.zero(offset=32 * BLOCK, length=8 * BLOCK)
        live.pwrite(100 * BLOCK, b"b" * BLOCK)
        assert list(live.allocated()) == [(100 * BLOCK, BLOCK)]
        with snapshot:
            data = bytearray(BLOCKS * BLOCK)
            for offset, length in snapshot.allocated():
                data[offset : offset + length] = snapshot.pread(offset=offset, length=length)
            assert data == snapshot.pread(offset=0, length=BLOCKS * BLOCK)
            first, *_ = snapshot.allocated()
            assert first[0] == 32 * BLOCK
            assert sum(length for _, length in snapshot.allocated()) < BLOCKS * BLOCK


def test_connections_with_one_token_read_one_snapshot(served: ServedVolume) -> None:
    with served.connect(writable=True) as live:
        assert isinstance(parse_description(live.description), LiveExport)
        live.pwrite(0, b"a" * BLOCK)
        first, described = served.snapshot("t")
        live.pwrite(0, b"b" * BLOCK)
        second, same = served.snapshot("t")
        assert same == described
        first.close()
        assert second.pread(offset=0, length=BLOCK) == b"a" * BLOCK
        with pytest.raises(DeviceFailed):
            served.connect("mirrorlog-snapshot/t", writable=True)
        second.close()
        newer, other = served.snapshot("u")
        assert other.number != described.number
        assert newer.pread(offset=0, length=BLOCK) == b"b" * BLOCK
        newer.close()


def test_a_snapshot_that_can_keep_no_more_gives_no_newer_data(
    native: NativeLibraries, tmp_path: Path
) -> None:
    with (
        ServedVolume(native, tmp_path, BLOCKS * BLOCK, kept=(8 * BLOCK, 8 * BLOCK)) as served,
        served.connect(writable=True) as live,
    ):
        live.pwrite(0, b"a" * 64 * BLOCK)
        broken, _ = served.snapshot("old")
        for block in range(16):
            live.pwrite(block * BLOCK, b"b" * BLOCK)
        assert broken.pread(offset=0, length=32 * BLOCK) == b"a" * 32 * BLOCK
        live.pwrite(16 * BLOCK, b"b" * BLOCK)
        for block in (0, 16, 40):
            with pytest.raises(DeviceFailed, match="No space left"):
                broken.pread(offset=block * BLOCK, length=BLOCK)
        newer, _ = served.snapshot("new")
        live.pwrite(0, b"c" * BLOCK)
        assert newer.pread(offset=0, length=BLOCK) == b"b" * BLOCK
        for device in (broken, newer):
            device.close()


def test_a_snapshot_ends_with_its_host(served: ServedVolume) -> None:
    with served.connect(writable=True) as live:
        snapshot, _ = served.snapshot("t")
        live.pwrite(0, b"b" * BLOCK)
        served.nbdkit.kill()
        with pytest.raises(DeviceFailed):
            snapshot.pread(offset=0, length=BLOCK)
        snapshot.close()


def test_without_kafka_there_is_no_snapshot_and_writes_go_on(
    native: NativeLibraries, tmp_path: Path
) -> None:
    with (
        ServedVolume(native, tmp_path, BLOCKS * BLOCK, host_away_s=0.05) as served,
        served.connect(writable=True) as live,
    ):
        served.commands.is_away = True
        live.pwrite(0, b"a" * BLOCK)
        wait_until(lambda: served.host.figures().away_s > 0)
        with pytest.raises(DeviceFailed, match="connecting"):
            served.snapshot("t")
        live.pwrite(0, b"b" * BLOCK)
        assert live.pread(offset=0, length=1) == b"b"
