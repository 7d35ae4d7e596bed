"""SQLite on a volume, without a file system: its files are ranges of one block device.

The volume begins with a table of sizes. Then come the rollback journal, which SQLite needs until
the database is in WAL mode, the database, and its write-ahead log, each in a range of its own. A
file grows when its data are on the device and the table was written after them.
SQLite locks nothing here, and needs no shared memory, because it has the files for itself
(`locking_mode = EXCLUSIVE`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from threading import Event, Thread
from typing import Final, Protocol
from uuid import uuid4

import pytest
from deadlines import wait_until

apsw = pytest.importorskip("apsw", reason="apsw isn't installed: pip install apsw")

BLOCK: Final = 4096
JOURNAL, BASE, LOG = "/v.db-journal", "/v.db", "/v.db-wal"
_TABLE: Final = struct.Struct("<qqq")
_JOURNAL_BYTES: Final = 64 * BLOCK
_ABSENT: Final = -1


class Device(Protocol):
    """What SQLite needs of a block device."""

    @property
    def size_bytes(self) -> int: ...
    def pread(self, *, offset: int, length: int) -> bytes: ...
    def pwrite(self, offset: int, data: bytes) -> None: ...
    def flush(self) -> None: ...


class VolumeFiles(apsw.VFS):  # type: ignore[misc, name-defined]
    """The files of one database on a device, for one connection at a time. close() ends it."""

    def __init__(self, device: Device) -> None:
        self.name: Final = f"volume-{uuid4()}"
        self.device: Final = device
        half = (device.size_bytes // 2) // BLOCK * BLOCK
        base = BLOCK + _JOURNAL_BYTES
        self.starts: Final = {JOURNAL: BLOCK, BASE: base, LOG: half}
        self.ends: Final = {JOURNAL: base, BASE: half, LOG: device.size_bytes}
        table = _TABLE.unpack(device.pread(offset=0, length=_TABLE.size))
        # A zero says that the file isn't there.
        self.sizes: Final = dict(zip(self.starts, (row - 1 for row in table), strict=True))
        super().__init__(self.name, "")

    def note_size(self, name: str, size: int) -> None:
        """Write the table of sizes."""
        self.sizes[name] = size
        table = _TABLE.pack(*(length + 1 for length in self.sizes.values()))
        self.device.pwrite(0, table + bytes(512 - len(table)))

    def xOpen(self, name: object, flags: list[int]) -> VolumeFile:
        path = name if isinstance(name, str) or name is None else name.filename()  # type: ignore[attr-defined]
        assert path in self.sizes, path
        if self.sizes[path] == _ABSENT:
            self.note_size(path, 0)
        flags[1] = flags[0]
        return VolumeFile(self, path)

    def xAccess(self, path: str, _flags: int) -> bool:
        return self.sizes.get(path, _ABSENT) != _ABSENT

    def xDelete(self, path: str, _is_durable: bool) -> None:
        self.note_size(path, _ABSENT)

    def xFullPathname(self, name: str) -> str:
        return name


class VolumeFile:
    """One of the files, as apsw calls it."""

    def __init__(self, files: VolumeFiles, name: str) -> None:
        self._files, self._name = files, name
        self._start, self._end = files.starts[name], files.ends[name]

    def xRead(self, amount: int, offset: int) -> bytes:
        length = max(0, min(amount, self._files.sizes[self._name] - offset))
        if not length:
            return b""
        return bytes(self._files.device.pread(offset=self._start + offset, length=length))

    def xWrite(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        if self._start + end > self._end:
            raise apsw.FullError("the volume is full")
        self._files.device.pwrite(self._start + offset, bytes(data))
        if end > self._files.sizes[self._name]:
            self._files.note_size(self._name, end)

    def xTruncate(self, size: int) -> None:
        self._files.note_size(self._name, size)

    def xSync(self, _flags: int) -> None:
        self._files.device.flush()

    def xFileSize(self) -> int:
        return self._files.sizes[self._name]

    def xLock(self, _level: int) -> None:
        pass

    xUnlock = xLock

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, _operation: int, _pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 512

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xClose(self) -> None:
        pass


@contextmanager
def connected(device: Device) -> Iterator[apsw.Connection]:  # type: ignore[name-defined]
    """Yield a connection to the database on a device, in WAL mode, durable at each commit.

    Opening it recovers what a crash left.
    """
    files = VolumeFiles(device)
    connection = apsw.Connection(BASE, vfs=files.name)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        assert connection.execute("PRAGMA journal_mode = WAL").get == "wal"
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 40")
        yield connection
    finally:
        connection.close()
        files.unregister()


def create_ledger(connection: apsw.Connection) -> None:  # type: ignore[name-defined]
    """Create the tables in which deposit() writes."""
    connection.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, sum INTEGER, filler BLOB)")
    connection.execute("CREATE TABLE entry (number INTEGER, account INTEGER)")
    connection.execute("CREATE INDEX entries ON entry (account, number)")
    with connection:
        connection.executemany(
            "INSERT INTO account VALUES (?, 0, zeroblob(700))", [(n,) for n in range(60)]
        )


def deposit(connection: apsw.Connection, number: int) -> None:  # type: ignore[name-defined]
    """Commit transaction `number`, which changes several pages of several tables."""
    accounts = [(number * step) % 60 for step in (1, 7, 11)]
    with connection:
        for account in accounts:
            connection.execute(
                "UPDATE account SET sum = sum + 1, filler = randomblob(700) WHERE id = ?",
                (account,),
            )
            connection.execute("INSERT INTO entry VALUES (?, ?)", (number, account))
        if number % 9 == 0:
            connection.execute("DELETE FROM entry WHERE number < ?", (number - 200,))
            connection.execute(
                "UPDATE account SET sum = (SELECT count(*) FROM entry WHERE account = account.id)"
            )


def check_ledger(device: Device, *, at_least: int) -> int:
    """Open the database on a device as after a crash. Return its last transaction.

    Check that SQLite finds it whole, that the transactions through `at_least` are there, and that
    none is there in part.
    """
    with connected(device) as connection:
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        last = connection.execute("SELECT max(number) FROM entry").get or 0
        assert last >= at_least, f"transaction {at_least} was acknowledged, the last is {last}"
        torn = connection.execute(
            "SELECT number FROM entry GROUP BY number HAVING count(*) <> 3 ORDER BY number"
        ).fetchall()
        assert torn == []
        numbers = [n for (n,) in connection.execute("SELECT DISTINCT number FROM entry")]
        assert sorted(numbers) == list(range(min(numbers, default=1), last + 1))
        sums = dict(connection.execute("SELECT id, sum FROM account").fetchall())
        counts = dict(
            connection.execute("SELECT account, count(*) FROM entry GROUP BY account").fetchall()
        )
        assert {n: counts.get(n, 0) for n in sums} == dict(sums.items())
    return int(last)


class Ledger:
    """SQLite in WAL mode on a volume, in a thread that commits without a pause.

    open_volume: opens the volume for writing.

    begun, acknowledged: the last transaction that began, and the last whose commit returned.
    """

    def __init__(self, open_volume: Callable[[], AbstractContextManager[Device]]) -> None:
        self.begun = self.acknowledged = 0
        self._open_volume, self._stopped = open_volume, Event()
        self._thread = Thread(target=self._write)

    def check(self) -> None:
        """Fail if the thread has ended by itself."""
        assert self._thread.is_alive(), "the database's writer has ended"

    def wait_for(self, number: int) -> None:
        """Wait until the commit of transaction `number` has returned."""
        wait_until(lambda: self.acknowledged >= number, self.check, every_s=0.001)

    def _write(self) -> None:
        with self._open_volume() as device, connected(device) as connection:
            create_ledger(connection)
            for number in count(1):
                if self._stopped.is_set():
                    return
                self.begun = number
                deposit(connection, number)
                self.acknowledged = number

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write until the block ends, which begins with the first transactions."""
        self._thread.start()
        try:
            self.wait_for(10)
            yield
        finally:
            self._stopped.set()
            self._thread.join()
