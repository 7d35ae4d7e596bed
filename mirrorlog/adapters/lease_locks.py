"""A lock on a store of objects, for stores that have none of their own.

    locks/0000000042.json             who has the lock number 42, and until when
    locks/0000000042.0003.json        the third time that its end was put off
    locks/0000000042.released.json    it was given back

The highest number counts. A lock is free if it was given back, or if its last end has passed; then
the next number may be created, and of two that try, one creates it. No object is ever replaced, so
stores work that let nobody overwrite or delete. Whoever has the lock deletes those of lower
numbers, if the store lets it.

The end is a time of the holder's clock, which another machine compares with its own. A clock that
is ahead by more than the lease takes the lock from a holder that is alive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Final, Protocol

from mirrorlog.adapters.folders import holder_line
from mirrorlog.adapters.sealed_json import sealed_line
from mirrorlog.errors import RepositoryFailed
from mirrorlog.json_text import parse_json
from mirrorlog.ports.backup_stores import WAIT_FOR_WRITER, RepositoryInUse
from mirrorlog.ports.clock import Clock

LEASE_S: Final = 600.0
_LOCKS: Final = "locks/"
_RELEASED: Final = "released"


class LeaseStore(Protocol):
    """What a lock needs of a store: a part of BackupStore."""

    @property
    def where(self) -> str:
        """The address of the store, for people."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Create an object whole. Return False if it exists."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
        ...

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of the objects below `prefix`."""
        ...

    def delete(self, name: str) -> None:
        """Delete an object."""
        ...


class LeaseLock:
    """A lock that was taken: WriterLock. It ends `lease_s` after it was last put off."""

    def __init__(
        self, store: LeaseStore, clock: Clock, *, number: int, lease_s: float, began_s: float
    ) -> None:
        self._store, self._clock, self._number = store, clock, number
        self._lease_s, self._renewals = lease_s, 0
        self._until_s = began_s + lease_s
        self._stop: Final = Event()
        self._thread: Thread | None = None

    def start_renewing(self) -> None:
        """Put the end off in a thread, every quarter of a lease, until the lock is released."""
        self._thread = Thread(target=self._keep_renewing, name="mirrorlog-lease", daemon=True)
        self._thread.start()

    def renew(self) -> None:
        """Put the end off. Raise RepositoryFailed."""
        self.check()
        began_s = self._clock.monotonic_s()
        self._renewals += 1
        name = f"{_LOCKS}{self._number:010d}.{self._renewals:04d}.json"
        self._store.create(name, _line(self._clock, self._lease_s, ""))
        self._until_s = began_s + self._lease_s

    def check(self) -> None:
        """Raise RepositoryFailed if the end has passed, or nearly so."""
        if self._clock.monotonic_s() > self._until_s - self._lease_s / 10:
            raise RepositoryFailed(
                "this writer's lock on the repository has run out, and another may have taken it",
                where=self._store.where,
                next="Check that the store answers, and try again.",
            )

    def release(self) -> None:
        """Give the lock back, so that the next writer needn't wait. A second call does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(RepositoryFailed):  # then it ends by itself
            self._store.create(f"{_LOCKS}{self._number:010d}.{_RELEASED}.json", b"{}\n")

    def _keep_renewing(self) -> None:
        while not self._stop.wait(self._lease_s / 4):
            with suppress(RepositoryFailed):  # check() tells, if it goes on
                self.renew()


def take_lease(
    store: LeaseStore, clock: Clock, purpose: str, *, lease_s: float = LEASE_S
) -> LeaseLock:
    """Take the lock.

    Raise RepositoryInUse if another has it, RepositoryFailed if the store refuses.
    """
    names = list(store.names(_LOCKS))
    number = max((_number_of(name) for name in names), default=0)
    ours = [name for name in names if _number_of(name) == number]
    if number and not any(_part_of(name) == _RELEASED for name in ours):
        _raise_if_held(store, clock, ours)
    began_s = clock.monotonic_s()
    if not store.create(f"{_LOCKS}{number + 1:010d}.json", _line(clock, lease_s, purpose)):
        raise RepositoryInUse(
            "another writer took the lock of the repository at the same moment",
            where=store.where,
            next="Try again when it has ended.",
        )
    for name in names:
        with suppress(RepositoryFailed):  # a store that lets nobody delete
            store.delete(name)
    return LeaseLock(store, clock, number=number + 1, lease_s=lease_s, began_s=began_s)


def _raise_if_held(store: LeaseStore, clock: Clock, names: list[str]) -> None:
    leases = [_read(store, name) for name in sorted(names)]
    until_us = max(int(str(lease["until_us"])) for lease in leases)
    if until_us < clock.now_us():
        return
    until = datetime.fromtimestamp(until_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    raise RepositoryInUse(
        f"another process writes to the repository: {leases[0]['holder']}",
        where=store.where,
        next=f"{WAIT_FOR_WRITER} If it was killed, its lock ends at {until}.",
    )


def _line(clock: Clock, lease_s: float, purpose: str) -> bytes:
    holder = f"{purpose}, {holder_line().decode('ascii').strip()}"
    until_us = clock.now_us() + int(lease_s * 1e6)
    return sealed_line(
        {"format": "mirrorlog-lock", "version": 1, "holder": holder, "until_us": until_us}
    )


def _read(store: LeaseStore, name: str) -> dict[str, object]:
    """Return a lease. One that can't be read, or is gone, has ended."""
    with suppress(ValueError, TypeError):
        lease = parse_json(store.read(name) or b"")
        if {"holder", "until_us"} <= lease.keys():
            return dict(lease)
    return {"holder": "unknown", "until_us": 0}


def _number_of(name: str) -> int:
    digits = name.removeprefix(_LOCKS).partition(".")[0]
    return int(digits) if digits.isdigit() else 0


def _part_of(name: str) -> str:
    return name.removesuffix(".json").rpartition(".")[2]
