"""One broker for all pytest-xdist workers of a run.

The first worker that needs it starts it, and ends it when the last of the others has ended. Where
they meet is a folder: a lock, a file with the broker's address, and a file that each user holds a
shared lock on. Linux lets go of a lock when its process ends in any way.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka.admin import AdminClient
from deadlines import DEADLINE_S, wait_until

from mirrorlog.broker.files import open_lock_file, waiting_lock

_PATIENCE_S: Final = 5 * DEADLINE_S
"""Others may have begun their longest test. It is less than a test's own timeout."""


@dataclass(frozen=True)
class SharedBroker:
    """A broker that all tests may use."""

    bootstrap_servers: str


@contextmanager
def one_for_all(
    folder: Path,
    start: Callable[[], AbstractContextManager[str]],
    *,
    patience_s: float = _PATIENCE_S,
) -> Iterator[str]:
    """Yield the address of what one process started, for all that use the same folder.

    start: starts it and yields its address. The caller of whom it is called ends it, once nobody
    else uses it. patience_s: if others still use it after this time, it is ended and this fails.
    """
    lock, address_file = folder / "lock", folder / "address"
    with ExitStack() as stack:
        users = open_lock_file(folder / "users")
        stack.callback(os.close, users)
        stack.callback(fcntl.flock, users, fcntl.LOCK_UN)  # also for children, which have it open
        with waiting_lock(lock):
            fcntl.flock(users, fcntl.LOCK_SH)
            if address_file.exists():
                address = address_file.read_text()
            else:
                address = stack.enter_context(start())
                stack.callback(_wait_until_unused, lock, users, address_file, patience_s)
                address_file.write_text(address)
        yield address


def _wait_until_unused(lock: Path, users: int, address_file: Path, patience_s: float) -> None:
    """Wait until this process is the only user, and let nobody become one."""

    def is_unused() -> bool:
        with waiting_lock(lock):
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            address_file.unlink()
            return True

    fcntl.flock(users, fcntl.LOCK_UN)
    wait_until(is_unused, every_s=0.1, deadline_s=patience_s)


def delete_topics(bootstrap_servers: str, prefix: str) -> None:
    """Delete all topics whose names begin with `prefix`: a broker with few of them works less."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    names = [
        name for name in admin.list_topics(timeout=DEADLINE_S).topics if name.startswith(prefix)
    ]
    for deleted in admin.delete_topics(names).values() if names else ():
        deleted.result(DEADLINE_S)
