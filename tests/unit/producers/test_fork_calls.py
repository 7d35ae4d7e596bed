"""How the writes of one call reach a secondary that takes several at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mirrorlog.domain.extents import ExtentKind
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import Data
from mirrorlog.producers.forks.fork_calls import Call, CallKind
from mirrorlog.producers.forks.forked_write import ForkedWrites


@dataclass
class Recording:
    """ForkedDevice that notes what it is asked to write, by offset. `fails` is the call that fails.

    calls: the offsets of each call.
    """

    fails: int | None = None
    calls: list[list[int]] = field(default_factory=list)
    size_bytes: int = 1 << 20
    secondary_id: str = "a secondary"

    def pwrite(self, offset: int, data: Data) -> None:
        assert data == offset.to_bytes(4, "big")
        self.calls.append([offset])

    def pwrite_in_order(self, writes: Sequence[tuple[int, bytes]]) -> None:
        if len(self.calls) == self.fails:
            raise DeviceFailed("it is full")
        assert all(data == offset.to_bytes(4, "big") for offset, data in writes)
        self.calls.append([offset for offset, _ in writes])

    def zero(self, *, offset: int, length: int) -> None:
        self.calls.append([-offset])

    def flush(self) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def call_of(device: Recording, count: int, *, zeros: Sequence[int] = ()) -> Call:
    """Return a call of so many writes, of which those of the numbers `zeros` write zeros."""
    writes = [(int(ExtentKind.WRITE), 4 * number, 4, 0, ()) for number in range(count)]
    contents = [
        None if number in zeros else (4 * number).to_bytes(4, "big") for number in range(count)
    ]
    forked = ForkedWrites(writes, ())
    return Call(CallKind.WRITE, 0.0, device=device, forked=forked, contents=contents)


def test_many_writes_go_to_the_device_together_in_their_order() -> None:
    device = Recording()
    call = call_of(device, 300)
    assert call.perform() is None
    assert [len(offsets) for offsets in device.calls] == [128, 128, 44]
    assert [offset for offsets in device.calls for offset in offsets] == list(range(0, 1200, 4))
    assert call.done == 3


def test_writes_among_which_are_zeros_go_one_by_one() -> None:
    device = Recording()
    call = call_of(device, 4, zeros=[2])
    assert call.perform() is None
    assert device.calls == [[0], [4], [-8], [12]]
    assert call.done == 4


def test_a_write_alone_is_no_write_of_several() -> None:
    device = Recording(fails=0)
    assert call_of(device, 1).perform() is None
    assert device.calls == [[0]]


def test_the_call_ends_with_the_first_failure() -> None:
    device = Recording(fails=1)
    call = call_of(device, 300)
    assert "it is full" in (call.perform() or "")
    assert (len(device.calls), call.done) == (1, 1)
