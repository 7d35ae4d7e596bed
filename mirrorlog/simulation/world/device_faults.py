"""Disks of a site that are full, read-only or bad in one sector, and primaries that don't answer.

They begin while the site runs, in the middle of a cycle too, and stay until mend() is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Final

from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.memory_devices import Hook, MemoryDevice
from mirrorlog.simulation.world.host import BLOCK_BYTES, BLOCKS, HostModel
from mirrorlog.simulation.world.site import SiteModel

SLOW_S: Final = 20.0
"""How long one read of a slow primary takes."""


class DeviceFaults:
    """The faults of the disks of one site, and of its primaries.

    random: draws which fault happens, and where. happened: the names of those that raised an error,
    or held a read up. struck: by volume, the fault that it has.
    """

    def __init__(self, site: SiteModel, host: HostModel, random: Random) -> None:
        self._site, self._host, self._random = site, host, random
        self.happened: Final[set[str]] = set()
        self.struck: Final[dict[str, str]] = {}
        self._before: Final[list[tuple[MemoryDevice, Hook | None]]] = []
        self._faults: Final[dict[str, Callable[[str], Hook]]] = {
            "secondary full": self._full,
            "secondary read-only": self._read_only,
            "secondary with a bad sector": self._bad_sector,
            "primary unreachable": self._unreachable,
            "primary slow": self._slow,
            "primary with a bad sector": self._bad_sector,
            "primary shrunk": self._shrunk,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all faults."""
        return tuple(self._faults)

    def strike(self, fault: str | None = None, name: str | None = None) -> None:
        """Let a fault begin, of a volume that has none; what isn't given is drawn.

        A fault that is drawn begins at one of the next reads or writes, one that is given at once.
        """
        waits = (0, 0, 1, 2) if fault is None else (0,)
        fault = fault or self._random.choice(self.names)
        name = name or self._random.choice(self._site.volumes)
        if name in self.struck:
            return
        is_secondary = fault.startswith("secondary")
        devices = self._site.secondaries.devices if is_secondary else self._host.primaries
        device, before = devices[name], devices[name].hook
        self.struck[name] = fault
        hook, left = self._faults[fault](name), self._random.choice(waits)

        def fail_first(operation: str, offset: int, length: int) -> None:
            nonlocal left
            left -= operation == ("pwrite" if is_secondary else "pread")
            if left < 0:
                hook(operation, offset, length)
            if before is not None:
                before(operation, offset, length)

        self._before.append((device, before))
        device.hook = fail_first

    def mend(self) -> None:
        """End all faults."""
        for device, before in self._before:
            device.hook = before
        self._before.clear()
        self.struck.clear()
        self._site.secondaries.missing_primaries.clear()

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Let a check read the devices as if they had no fault, and without a step of the site."""
        devices = [*self._site.secondaries.devices.values(), *self._host.primaries.values()]
        hooks = [device.hook for device in devices]
        for device in devices:
            device.hook = None
        yield
        for device, hook in zip(devices, hooks, strict=True):
            device.hook = hook

    def _full(self, name: str) -> Hook:
        def hook(operation: str, *_: int) -> None:
            if operation == "pwrite":
                self._fail("secondary full", name, "No space left on device")

        return hook

    def _read_only(self, name: str) -> Hook:
        def hook(operation: str, *_: int) -> None:
            if operation in ("pwrite", "zero", "resize"):
                self._fail("secondary read-only", name, "Read-only file system")

        return hook

    def _bad_sector(self, name: str) -> Hook:
        bad, fault = self._random.randrange(BLOCKS) * BLOCK_BYTES, self.struck[name]

        def hook(operation: str, offset: int, length: int) -> None:
            if operation in ("pread", "pwrite", "zero") and offset <= bad < offset + length:
                self._fail(fault, name, "Input/output error")

        return hook if fault.startswith("secondary") else _reads_only(hook)

    def _unreachable(self, name: str) -> Hook:
        """Break the connection in the middle of a cycle, or let no new one be made."""
        if self._random.random() < 0.5:
            self._site.secondaries.missing_primaries.add(name)
        return _reads_only(
            lambda *_: self._fail("primary unreachable", name, "Connection reset by peer")
        )

    def _slow(self, name: str) -> Hook:
        """Let the host publish twice while a read lasts, and then write what is being read."""

        def hook(_operation: str, offset: int, _length: int) -> None:
            self.happened.add("primary slow")
            self._site.clock.now_s += SLOW_S
            for _ in range(2):
                self._host.publish(name)
            self._host.write_block(name, offset // BLOCK_BYTES)

        return _reads_only(hook)

    def _shrunk(self, name: str) -> Hook:
        end = self._random.randrange(BLOCKS) * BLOCK_BYTES

        def hook(_operation: str, offset: int, length: int) -> None:
            if offset + length > end:
                self._fail("primary shrunk", name, "the device has become shorter")

        return _reads_only(hook)

    def _fail(self, fault: str, name: str, reason: str) -> None:
        self.happened.add(fault)
        raise DeviceFailed(f"{fault}: {reason}", where=f"{name}, offset 0")


def _reads_only(hook: Hook) -> Hook:
    """Return a hook that leaves the host's writes alone: it is the site that reads."""

    def of_reads(operation: str, offset: int, length: int) -> None:
        if operation == "pread":
            hook(operation, offset, length)

    return of_reads
