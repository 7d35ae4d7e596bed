"""A view of one partition's table in RocksDB. Implements TableView (table/local_store.py)."""

from __future__ import annotations

from collections.abc import Iterator

from rocksdict import Rdict, RdictIter

from mirrorlog.errors import StateDamaged


class RocksTableView:
    """One iterator, which every call seeks again. All that it shows is as of the moment when it was
    made (RocksDB wiki, "Iterator").

    Not rocksdict's Snapshot: in 0.3.29 the iterators of a snapshot show what is written after it
    was made (tests/contract/test_table_views.py). One thread uses a view; others may write
    meanwhile.
    """

    def __init__(self, table: Rdict) -> None:
        self._rows: RdictIter | None = table.iter()

    def get(self, key: bytes) -> bytes | None:
        """Return the value of the row with this key, None if the view has no such row."""
        rows = self._seek(key)
        return bytes(rows.value()) if rows.valid() and rows.key() == key else None

    def has(self, key: bytes) -> bool:
        """Return whether the view has a row with this key. Its value isn't copied."""
        rows = self._seek(key)
        return rows.valid() and rows.key() == key

    def first_from(self, key: bytes) -> tuple[bytes, bytes] | None:
        """Return the row with the lowest key that isn't below `key`, None if there is none."""
        rows = self._seek(key)
        return (bytes(rows.key()), bytes(rows.value())) if rows.valid() else None

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield every row whose key begins with `prefix`, in the order of keys."""
        rows = self._seek(prefix)
        while rows.valid() and (key := bytes(rows.key())).startswith(prefix):
            yield key, bytes(rows.value())
            rows.next()
        _raise_read_error(rows)

    def _seek(self, key: bytes) -> RdictIter:
        assert self._rows is not None
        self._rows.seek(key)
        _raise_read_error(self._rows)
        return self._rows

    def close(self) -> None:
        """Release the table: RocksDB keeps its folder locked while anybody holds it."""
        self._rows = None


def _raise_read_error(rows: RdictIter) -> None:
    """Raise StateDamaged if the iterator met an error: without this it looks like the last row."""
    try:
        rows.status()
    except Exception as error:
        raise StateDamaged(
            f"the node's table can't be read: {error}",
            next="Stop the node, remove its table and start it again: the table is then rebuilt "
            "from the changelog.",
        ) from error
