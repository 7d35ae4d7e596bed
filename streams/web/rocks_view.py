"""A view of one partition's table in RocksDB."""

from __future__ import annotations

from collections.abc import Iterator

from rocksdict import Rdict, RdictIter

from mirrorlog.errors import StateDamaged


class RocksTableView:
    """One iterator, sought again for each call: all that it shows is as of when it was made (RocksDB wiki, "Iterator").

    Not rocksdict's Snapshot: in 0.3.29 its iterators show what is written after it was made
    (tests/contract/test_table_views.py). One thread uses a view; others may write meanwhile.
    """

    def __init__(self, table: Rdict) -> None:
        self._rows: RdictIter | None = table.iter()

    def get(self, key: bytes) -> bytes | None:
        """The row's value."""
        rows = self._seek(key)
        return bytes(rows.value()) if rows.valid() and rows.key() == key else None

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Every row whose key begins so."""
        rows = self._seek(prefix)
        while rows.valid() and (key := bytes(rows.key())).startswith(prefix):
            yield key, bytes(rows.value())
            rows.next()
        _check(rows)

    def _seek(self, key: bytes) -> RdictIter:
        assert self._rows is not None
        self._rows.seek(key)
        _check(self._rows)
        return self._rows

    def close(self) -> None:
        """Lets go of the table: RocksDB's lock on its folder lasts as long as anybody holds it."""
        self._rows = None


def _check(rows: RdictIter) -> None:
    """An error looks like the end of the rows until it is asked for."""
    try:
        rows.status()
    except Exception as error:
        raise StateDamaged(
            f"the node's table can't be read: {error}",
            next="Stop the node, remove its table and start it again: the table is read anew from the changelog.",
        ) from error
