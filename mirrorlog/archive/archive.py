"""The archive as its readers see it: chains of manifests, and the commands that they name."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mirrorlog.archive.chains import Chain, ClippedChain, StoredManifest, line_of
from mirrorlog.archive.command_files import decode_commands
from mirrorlog.archive.manifests import ArchivedFile, FileKind, decode_manifest, digest_of
from mirrorlog.archive.merges import RowMerge, check_merges, decode_merge
from mirrorlog.archive.names import MANIFESTS, first_position_of, merges_prefix, partition_prefix
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.errors import StateDamaged
from mirrorlog.ports.archive_stores import ArchiveStore
from mirrorlog.ports.streams import Message


def _do_nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class CommandsWanted:
    """Which commands a reader wants: those at positions in `(after, through]`.

    volumes: without the commands that name other volumes; None: all messages.
    """

    after: int
    through: int
    volumes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class MergedChain:
    """A chain, and the merges of its rows, in the order of positions.

    chain: has at least the manifests behind the last merge.
    """

    chain: Chain
    merges: tuple[RowMerge, ...]

    @property
    def merged_through(self) -> int:
        """The position through which the chain's rows are merged."""
        return self.merges[-1].through if self.merges else self.chain.after


class Archive:
    """Reads one store. Manifests are read once and kept, because none ever changes.

    Who reads for years forgets those that nobody asks for any more (forget_unasked).

    checkpoint: called before each object that is read. It may raise, to give the reading up.
    """

    def __init__(self, store: ArchiveStore, checkpoint: Callable[[], None] = _do_nothing) -> None:
        self.store, self._checkpoint = store, checkpoint
        self._known: dict[str, StoredManifest] = {}  # asked for since forget_unasked()
        self._older: dict[str, StoredManifest] = {}  # before that
        self._merges: dict[str, RowMerge] = {}

    def partitions(self) -> list[int]:
        """Return the partitions of which there is a manifest."""
        parts = {name.split("/")[1] for name in self.store.names(MANIFESTS)}
        return sorted(int(part.removeprefix("p")) for part in parts)

    def chains(self, partition: int, *, above: int = BEFORE_FIRST) -> list[Chain]:
        """Return the chains of a partition, by epoch, as the store has them now.

        above: of each chain, only the manifests that hold positions above this one are read, and at
        least the last. Raise StateDamaged if a chain is broken, or a manifest can't be read;
        ArchiveFailed.
        """
        histories = self._names_by_history(partition_prefix(partition))
        chains = [self._chain(names, above) for names in histories.values()]
        return sorted(chains, key=lambda chain: chain.history.epoch)

    def merged_chains(self, partition: int) -> list[MergedChain]:
        """Return the chains of a partition, by epoch, with the merges of their rows.

        Of each chain, only the manifests behind the last merge are read, and at least the last.
        Errors: those of chains(), also for the merges.
        """
        merges = {
            history: [self._merge(name) for name in names]
            for history, names in self._names_by_history(merges_prefix(partition)).items()
        }
        merged: list[MergedChain] = []
        for history, names in self._names_by_history(partition_prefix(partition)).items():
            mine = tuple(merges.get(history, ()))
            chain = self._chain(names, mine[-1].through if mine else BEFORE_FIRST)
            check_merges(mine, after=chain.after)
            merged.append(MergedChain(chain, mine))
        return sorted(merged, key=lambda item: item.chain.history.epoch)

    def _names_by_history(self, prefix: str) -> dict[str, list[str]]:
        """Return the names of objects below a prefix, in order, by the folder of their history."""
        histories: dict[str, list[str]] = {}
        for name in self.store.names(prefix):
            histories.setdefault(name.split("/")[-2], []).append(name)
        return histories

    def _chain(self, names: Sequence[str], above: int) -> Chain:
        """Return the chain of the manifests of these names. above: as for chains()."""
        begins = [first_position_of(name) for name in names]
        skipped = max(bisect_right(begins, above + 1) - 1, 0)
        stored = [self._stored(name) for name in names[skipped:]]
        return Chain.of(stored, begins_after=begins[0] - 1 if skipped else None)

    def line(
        self, partition: int, topic: str | None, *, above: int = BEFORE_FIRST
    ) -> list[ClippedChain]:
        """Return the chains of a partition whose positions are those of the topic with this id.

        above: as for chains().
        """
        return line_of(self.chains(partition, above=above), topic)

    def _stored(self, name: str) -> StoredManifest:
        if name not in self._known:
            older = self._older.pop(name, None)
            self._known[name] = self._read_manifest(name) if older is None else older
        return self._known[name]

    def _read_manifest(self, name: str) -> StoredManifest:
        self._checkpoint()
        content = self.store.read(name)
        if content is None:
            raise StateDamaged("a manifest of the archive has vanished", where=name)
        return StoredManifest.of(name, content, decode_manifest(content, name))

    def forget_unasked(self) -> None:
        """Forget the manifests that nobody has asked for since the last call of this."""
        self._older, self._known = self._known, {}

    def _merge(self, name: str) -> RowMerge:
        if name not in self._merges:
            self._checkpoint()
            content = self.store.read(name)
            if content is None:
                raise StateDamaged("a merge of the archive has vanished", where=name)
            self._merges[name] = decode_merge(content, name)
        return self._merges[name]

    def content(self, file: ArchivedFile) -> bytes:
        """Return the content of a file. Raise StateDamaged if it isn't what was written."""
        self._checkpoint()
        content = self.store.read(file.name)
        reason = damage_of(file, content)
        if content is None or reason is not None:
            raise StateDamaged(
                f"a file of the archive is damaged: {reason}",
                where=f"{file.name}, positions {file.first_position} to {file.last_position}",
                next="Restore the file from a copy of the archive.",
            )
        return content

    def commands(self, line: Iterable[ClippedChain], wanted: CommandsWanted) -> Iterator[Message]:
        """Yield the messages of a line, in the order of positions. One file is in memory at a time.

        The caller has checked that the line holds the range (chains.missing_in). Raise
        StateDamaged for a damaged file.
        """
        for part in line:
            through = min(part.through, wanted.through)
            for manifest in part.chain.manifests:
                if manifest.through <= wanted.after or manifest.after >= through:
                    continue
                for file in manifest.files_of(FileKind.COMMANDS):
                    yield from decode_commands(
                        self.content(file),
                        manifest.topic_name,
                        manifest.partition,
                        after=wanted.after,
                        through=through,
                        volumes=wanted.volumes,
                        where=file.name,
                    )


def damage_of(file: ArchivedFile, content: bytes | None) -> str | None:
    """Return what is wrong with the content of a file; None if nothing is."""
    if content is None:
        return "it is missing"
    if len(content) != file.size_bytes:
        return f"it has {len(content)} bytes, and had {file.size_bytes}"
    if digest_of(content) != file.sha256:
        return "its SHA-256 is another one"
    return None
