"""The store of an archive in memory: the port mirrorlog.ports.archive_stores.ArchiveStore."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mirrorlog.errors import ArchiveFailed


def _do_nothing(step: str, name: str) -> None:
    del step, name


class MemoryArchive:
    """Objects in memory.

    before, after: called with the operation (`create`, `read`, `names`) and the name, before it
        has an effect and after that. An exception of theirs is a failure of the store, or the end
        of the process, at that point. Tests change them.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.before: Callable[[str, str], None] = _do_nothing
        self.after: Callable[[str, str], None] = _do_nothing

    @property
    def where(self) -> str:
        """A text for people."""
        return "an archive in memory"

    def create(self, name: str, content: bytes) -> bool:
        """Create an object. Return False if it exists."""
        self.before("create", name)
        is_new = name not in self.objects
        if is_new:
            self.objects[name] = bytes(content)
        self.after("create", name)
        return is_new

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
        self.before("read", name)
        return self.objects.get(name)

    def size_bytes(self, name: str) -> int | None:
        """Return the size of an object; None if there is none."""
        content = self.objects.get(name)
        return None if content is None else len(content)

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of the objects below `prefix`, sorted."""
        self.before("names", prefix)
        yield from sorted(
            (name for name in self.objects if name.startswith(prefix)), key=str.encode
        )

    def flip_bit(self, name: str, bit: int) -> None:
        """Damage an object."""
        content = bytearray(self.objects[name])
        if not 0 <= bit < 8 * len(content):
            raise ArchiveFailed("there is no such bit", where=name)
        content[bit // 8] ^= 1 << bit % 8
        self.objects[name] = bytes(content)

    def close(self) -> None:
        """Do nothing."""
