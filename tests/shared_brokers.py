"""One broker for all pytest-xdist workers of a run.

The first worker that needs it starts it, and ends it when the last of the others has ended. Where
they meet is a folder: a lock, a file with the broker's address, and a file that each user holds a
shared lock on. Linux lets go of a lock when its process ends in any way.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient
from deadlines import DEADLINE_S

from mirrorlog.broker.files import open_lock_file, waiting_lock


@dataclass(frozen=True)
class SharedBroker:
    """A broker that all tests may use."""

    bootstrap_servers: str


@contextmanager
def one_for_all(folder: Path, start: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """Yield the address of what one process started, for all that use the same folder.

    start: starts it and yields its address. The caller of whom it is called ends it, once nobody
    else uses it.
    """
    lock, address_file = folder / "lock", folder / "address"
    users = open_lock_file(folder / "users")
    try:
        with waiting_lock(lock):
            fcntl.flock(users, fcntl.LOCK_SH)
            if address_file.exists():
                started, address = None, address_file.read_text()
            else:
                started = start()
                address = started.__enter__()
                address_file.write_text(address)
        try:
            yield address
        finally:
            fcntl.flock(users, fcntl.LOCK_UN)
            if started is not None:
                _wait_until_unused(lock, users, address_file)
                started.__exit__(None, None, None)
    finally:
        os.close(users)


def _wait_until_unused(lock: Path, users: int, address_file: Path) -> None:
    """Wait for all users, and let nobody become one."""
    while True:
        fcntl.flock(users, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_UN)
        with waiting_lock(lock):
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            address_file.unlink()
            fcntl.flock(users, fcntl.LOCK_UN)
            return


def delete_topics(bootstrap_servers: str, prefix: str) -> None:
    """Delete all topics whose names begin with `prefix`: a broker with few of them works less."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    names = [
        name for name in admin.list_topics(timeout=DEADLINE_S).topics if name.startswith(prefix)
    ]
    for deleted in admin.delete_topics(names).values() if names else ():
        deleted.result(DEADLINE_S)
