"""Is the archive whole? Every manifest and every file is read, and nothing of Kafka is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mirrorlog.archive.archive import Archive, damage_of
from mirrorlog.archive.chains import Chain
from mirrorlog.archive.command_files import decode_commands
from mirrorlog.archive.manifests import ArchivedFile, FileKind, Manifest
from mirrorlog.archive.merges import MergedFile
from mirrorlog.archive.parquet import read_parquet
from mirrorlog.consumers.archive.merged_files import RowFacts
from mirrorlog.consumers.archive.sorted_rows import is_in_order
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.errors import DifferenceFound, StateDamaged
from mirrorlog.ports.streams import Message

_TO_THE_END = (1 << 63) - 1


@dataclass(slots=True)
class CheckedPartition:
    """What was checked of a partition.

    holes: the ranges (after, through] that manifests say are missing.
    superseded: commands that a later history of the topic has lost.
    """

    partition: int
    commands: int = 0
    rows: int = 0
    files: int = 0
    size_bytes: int = 0
    through: int = BEFORE_FIRST
    histories: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)
    superseded: int = 0


def verify_archive(archive: Archive) -> Iterator[CheckedPartition]:
    """Check one partition after the other, and yield what was checked.

    Checked are: the chain of manifests; size and SHA-256 of each file; the number of messages, and
    that their positions ascend and lie in the range; that each command file's messages are those
    that the manifest counts; that each file of rows is of its volume and day, and its rows are of
    commands of the range; what check_merged_rows() says. Raise DifferenceFound at the first thing
    that is wrong, which names the file and the first position that it concerns; ArchiveFailed if
    the store doesn't answer.
    """
    for partition in archive.partitions():
        yield _checked_partition(archive, partition)


def _checked_partition(archive: Archive, partition: int) -> CheckedPartition:
    checked = CheckedPartition(partition)
    try:
        chains = archive.chains(partition)
        for chain in chains:
            checked.histories += 1
            for manifest in chain.manifests:
                _check_manifest(archive, manifest, checked)
        checked.through = max((chain.through for chain in chains), default=BEFORE_FIRST)
        checked.superseded = _superseded(chains)
        for chain in chains:
            check_merged_rows(archive, chain, checked)
    except StateDamaged as damage:
        raise DifferenceFound(damage.what, where=damage.where, next=damage.next) from damage
    return checked


def check_merged_rows(archive: Archive, chain: Chain, checked: CheckedPartition) -> None:
    """Check that the merges of a chain hold as many rows of each volume as what they merge.

    Also checked: the size and SHA-256 of each file, that its rows are of its volume, and that their
    order and their bytes are what its entry says. Raise as verify_archive().
    """
    ends = {stored.manifest.through: stored.sha256 for stored in chain.stored}
    merged = archive.merged_chains(chain.last.partition)
    for merge in next(item.merges for item in merged if item.chain.history == chain.history):
        if ends.get(merge.through) != merge.last_manifest_sha256:
            raise DifferenceFound(
                "a merge of the archive names another manifest than its chain has",
                where=f"partition {merge.partition}, positions ({merge.after}, {merge.through}]",
                next="Restore the objects below merges/ from a copy of the archive.",
            )
        rows: Counter[str | None] = Counter()
        for manifest in chain.manifests:
            if merge.after <= manifest.after < merge.through:
                for file in manifest.files_of(FileKind.ROWS):
                    rows[file.volume] += file.rows
        for file in merge.files:
            checked.files += 1
            checked.size_bytes += _check_merged_file(archive, file)
            rows[file.volume] -= file.rows
        if any(rows.values()):
            raise DifferenceFound(
                "a merge of the archive has other rows than the files that it merges",
                where=f"partition {merge.partition}, positions ({merge.after}, {merge.through}]",
            )


def _check_merged_file(archive: Archive, file: MergedFile) -> int:
    """Return the size of a merged file. Raise DifferenceFound if it isn't what its entry says."""
    content = archive.store.read(file.name)
    if (damage := damage_of(file, content)) is not None:
        raise _failed(file, damage)
    assert content is not None
    columns = ("position", "offset", "length", "extent", "volume", "appended_at_us")
    table = read_parquet(
        content, after=BEFORE_FIRST, through=_TO_THE_END, columns=columns, where=file.name
    )
    facts = RowFacts()
    facts.add(table)
    fields = facts.fields() | facts.offset_fields()
    if any(getattr(file, name) != value for name, value in fields.items()):
        raise _failed(file, "its rows aren't those of its entry")
    if table.column("volume").unique().to_pylist() != [file.volume]:
        raise _failed(file, "its rows are of another volume")
    if not is_in_order(table):
        raise _failed(file, "its rows aren't in order")
    return len(content)


def _check_manifest(archive: Archive, manifest: Manifest, checked: CheckedPartition) -> None:
    if manifest.hole is not None:
        checked.holes.append((manifest.after, manifest.through))
    positions: set[int] = set()
    for file in manifest.files:
        content = archive.store.read(file.name)
        if (damage := damage_of(file, content)) is not None:
            raise _failed(file, damage)
        assert content is not None
        checked.files, checked.size_bytes = checked.files + 1, checked.size_bytes + len(content)
        if file.kind is FileKind.COMMANDS:
            positions |= _check_commands(manifest, file, content)
        else:
            checked.rows += _check_rows(file, content, positions)
    if len(positions) != manifest.commands:
        raise DifferenceFound(
            f"the manifest counts {manifest.commands} commands, and its files hold "
            f"{len(positions)}",
            where=f"partition {manifest.partition}, positions ({manifest.after}, "
            f"{manifest.through}]",
        )
    checked.commands += len(positions)


def _check_commands(manifest: Manifest, file: ArchivedFile, content: bytes) -> set[int]:
    messages = decode_commands(
        content,
        manifest.topic_name,
        manifest.partition,
        after=BEFORE_FIRST,
        through=_TO_THE_END,
        where=file.name,
    )
    _check_order(manifest, file, messages)
    if len(messages) != file.rows:
        raise _failed(file, f"it has {len(messages)} messages, and had {file.rows}")
    return {message.position for message in messages}


def _check_order(manifest: Manifest, file: ArchivedFile, messages: Sequence[Message]) -> None:
    reached = manifest.after
    for message in messages:
        if not reached < message.position <= manifest.through:
            reason = "is there twice" if message.position == reached else "lies outside its range"
            raise _failed(file, f"position {message.position} {reason}")
        reached = message.position
    ends = (messages[0].position, messages[-1].position) if messages else None
    if ends != (file.first_position, file.last_position):
        raise _failed(file, "its first or last position is another one")


def _check_rows(file: ArchivedFile, content: bytes, positions: set[int]) -> int:
    columns = ("position", "volume")
    table = read_parquet(
        content, after=BEFORE_FIRST, through=_TO_THE_END, columns=columns, where=file.name
    )
    if table.num_rows != file.rows:
        raise _failed(file, f"it has {table.num_rows} rows, and had {file.rows}")
    volumes = set(table.column("volume").unique().to_pylist())
    if volumes != {file.volume}:
        raise _failed(file, f"its rows are of {', '.join(sorted(map(str, volumes)))}")
    strangers = set(table.column("position").unique().to_pylist()) - positions
    if strangers:
        raise _failed(file, f"no archived command is at position {min(strangers)}")
    return int(table.num_rows)


def _superseded(chains: Sequence[Chain]) -> int:
    """Return how many positions of the chains a later history of the same topic has lost."""
    lost, begins = 0, dict[str | None, int]()
    for chain in reversed(chains):
        begin = begins.get(chain.history.topic)
        if begin is not None:
            lost += max(0, chain.through - max(begin, chain.after))
        begins[chain.history.topic] = chain.after if begin is None else min(begin, chain.after)
    return lost


def _failed(file: ArchivedFile, reason: str) -> DifferenceFound:
    return DifferenceFound(
        f"a file of the archive isn't what was written: {reason}",
        where=f"{file.name}, positions {file.first_position} to {file.last_position}",
        next="Restore the file from a copy of the archive.",
    )
