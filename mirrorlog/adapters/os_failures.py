"""What the operating system refuses about a file, as the error that operators read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirrorlog.errors import DeviceFailed


@contextmanager
def os_errors_named(what: str, path: Path, next_step: str) -> Iterator[None]:
    """Raise an OSError of the block as DeviceFailed.

    what: says what failed there ("locking failed"); the reason follows. next_step: what an operator
    can do.
    """
    try:
        yield
    except OSError as error:
        raise DeviceFailed(
            f"{what}: {error.strerror or error}", where=str(path), next=next_step
        ) from error
