"""What all simulated worlds have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import pytest

from mirrorlog.codec.command_columns import CommandColumns, decode_columns
from mirrorlog.codec.events import decode
from mirrorlog.consumers.backup.repository import repository
from mirrorlog.consumers.backup.repository.manifests import decode_point
from mirrorlog.reading import catalog, changes_after, log_reader, open_sessions
from mirrorlog.streams.fold import batch_plan, response
from mirrorlog.streams.table import kept_heads, log_table


@pytest.fixture(scope="module", autouse=True)
def all_is_decoded_once() -> Iterator[None]:
    """Let the processes of simulated worlds remember what the last few thousand events say.

    Nine of ten were decoded before: by other processes, after crashes, or in other worlds of the
    same seed. So were most manifests of points, which a catalog reads again. Nobody changes what
    was decoded.
    """
    remembered = lru_cache(maxsize=1 << 14)(decode)
    columns_of = lru_cache(maxsize=1 << 12)(decode_columns)

    def columns(values: Sequence[bytes | None]) -> CommandColumns:
        return columns_of(tuple(values))

    readers = (catalog, changes_after, kept_heads, log_reader, log_table, open_sessions, response)
    with pytest.MonkeyPatch.context() as patched:
        for module in readers:
            patched.setattr(module, "decode", remembered)
        patched.setattr(batch_plan, "decode_columns", columns)
        patched.setattr(repository, "decode_point", lru_cache(maxsize=1 << 10)(decode_point))
        yield
