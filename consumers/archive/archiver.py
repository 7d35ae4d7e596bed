"""Writes the archive: one partition at a time, a range of positions at a time.

The steps of one range, and why nothing is there twice or missing whenever a step is the last:

1. Read the end of the partition's chain from the store, the newest watermark of the log, and then
   where the topic begins and ends. A watermark that is read first can't name a command that the
   topic doesn't have yet.
2. Decide (plan.py). Everything below needs a range that begins exactly where the chain ends.
3. Read the commands of the range, at most `range_bytes` of them.
4. Ask again whether the history is still the same, and the log still records in it: if the topic
   went back while it was read, the messages may be of two histories, and are dropped. The node may
   have renewed the history meanwhile.
5. Make the files in memory, and create each. Its name holds the SHA-256 of its content, so a file
   that exists already is the same one: an earlier attempt, or another archiver, wrote it. Until
   step 6 no reader knows any of them.
6. Create the manifest under the name that follows from where the range begins. The store creates a
   name once. Whoever comes second finds the other's manifest at the next step 1, and goes on
   behind it. So every position is in exactly one manifest of its history.
7. When nothing is left to write, delete from the topic what its retention no longer keeps, up to
   the end of the chain as the store has it now (held_retention.py).

A crash before step 6 leaves files that no manifest names; they cost space, and nothing else. A
crash behind step 6 loses nothing. A store that fails may have done what it was asked or not: the
next attempt finds out by the same steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from mirrorlog.archive.archive import Archive
from mirrorlog.archive.command_files import encode_commands, last_message
from mirrorlog.archive.manifests import (
    ArchivedFile,
    FileKind,
    Manifest,
    digest_of,
    encode_manifest,
)
from mirrorlog.archive.names import commands_name, manifest_name
from mirrorlog.consumers.archive.plan import (
    ArchiveStep,
    ArchiveView,
    FindCommon,
    Refuse,
    Wait,
    WriteCommands,
    WriteHole,
    next_archive_step,
)
from mirrorlog.consumers.archive.topic_comparison import TopicComparison
from mirrorlog.errors import ArchiveFailed, StateDamaged
from mirrorlog.ports.archive_stores import ArchiveStore
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.commands_now import commands_now
from mirrorlog.reading.newest_watermark import newest_watermark
from mirrorlog.reading.read_through import ReadPatience
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.breaks import break_reason

log = logging.getLogger("mirrorlog.archive")

RANGE_BYTES: Final = 32 << 20
"""Of the commands in one range, as they are in the topic. They are in memory several times."""
RANGE_COMMANDS: Final = 250_000
_LAST_ONLY: Final = 1 << 62


class RowFileMaker(Protocol):
    """Makes the files of rows of a range."""

    def __call__(self, step: WriteCommands, messages: Sequence[Message]) -> Iterable[NewFile]:
        """Yield the files of the commands in the step's range, always the same for the same."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is to be created: its entry in the manifest, and its content."""

    entry: ArchivedFile
    content: bytes


def no_row_files(step: WriteCommands, messages: Sequence[Message]) -> Iterable[NewFile]:
    """Make no files of rows."""
    del step, messages
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiverPorts:
    """The ports of an archiver.

    open_reader: opens a reader of any topic. make_rows: makes the files of rows.
    patience_s: how long a reader waits for a broker that doesn't answer.
    before_poll: called before each poll. It may raise, to give the work up.
    before_range: called before the files of a range are made.
    """

    store: ArchiveStore
    open_reader: Callable[[], TopicReader]
    admin: TopicAdmin
    topics: Topics
    clock: Clock
    make_rows: RowFileMaker = no_row_files
    patience_s: float = 30.0
    before_poll: Callable[[], None] = lambda: None
    before_range: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Written:
    """What an archiver has written of one partition. waits_for: why it goes no further now."""

    partition: int
    commands: int = 0
    files: int = 0
    size_bytes: int = 0
    manifests: int = 0
    lost_races: int = 0
    waits_for: str = ""
    is_complete: bool = False
    view: ArchiveView | None = field(default=None, repr=False)


class Archiver:
    """Archives the partitions of the commands topic. One thread calls it.

    accepts_hole: commands that Kafka dropped before they were archived don't stop it.
    archive: what it has written, for others of its thread.
    """

    def __init__(
        self,
        ports: ArchiverPorts,
        *,
        accepts_hole: bool = False,
        range_bytes: int = RANGE_BYTES,
        written_by: str = "",
    ) -> None:
        self._ports, self._accepts_hole = ports, accepts_hole
        self._range_bytes, self._written_by = range_bytes, written_by
        self.archive = Archive(ports.store)
        self._patience = ReadPatience(
            ports.clock,
            ports.patience_s,
            "reading commands for the archive",
            before_poll=ports.before_poll,
            poll_s=0.2,
        )
        self._topic = TopicComparison(
            self.archive, ports.open_reader, ports.admin, ports.topics.commands, self._patience
        )

    def run_partition(self, partition: int) -> Written:
        """Archive what the log has recorded of a partition. Return when nothing is left.

        Raise OutOfRetention for commands that are lost, WrongCluster, StateDamaged and
        ArchiveFailed; KafkaFailed as read_through does. After any of them a next call goes on.
        """
        written = Written(partition)
        while True:
            view = self.look(partition)
            step = self._decide(view)
            match step:
                case Refuse():
                    raise step.error
                case WriteCommands():
                    self._write_commands(partition, step, written)
                case WriteHole():
                    self._write_hole(partition, step, written)
                case Wait():
                    written.waits_for, written.is_complete = step.reason, step.is_complete
                    written.view = view
                    return written
                case FindCommon():
                    raise AssertionError("what is common is known by now")

    def look(self, partition: int) -> ArchiveView:
        """Return what is known of a partition now (step 1)."""
        ports, topic = self._ports, self._ports.topics.commands
        chains = self.archive.chains(partition, above=_LAST_ONLY)
        watermark = newest_watermark(
            ports.open_reader, ports.admin, ports.topics.changelog, partition, self._patience
        )
        cluster, identity = ports.admin.cluster_id(), ports.admin.identity(topic)
        view = ArchiveView(
            partition=partition,
            cluster=cluster,
            topic=identity,
            first_kept=ports.admin.first_position(topic, partition),
            watermark=watermark,
            break_reason=None,
            chains=chains,
        )
        if watermark is None:
            return view
        now = commands_now(
            ports.open_reader, ports.admin, topic, partition, watermark.through, self._patience
        )
        last = None if view.chain is None else view.chain.last.last
        return replace(
            view,
            first_kept=now.first_kept,
            break_reason=break_reason(watermark, now),
            last_is_same=self._topic.last_is_same(partition, last, now.first_kept, now.end),
        )

    def _decide(self, view: ArchiveView) -> ArchiveStep:
        step = next_archive_step(view, accepts_hole=self._accepts_hole)
        if isinstance(step, FindCommon):
            view = replace(view, common_through=self._topic.common_through(view))
            step = next_archive_step(view, accepts_hole=self._accepts_hole)
        return step

    def _write_commands(self, partition: int, step: WriteCommands, written: Written) -> None:
        """Write one range, from the begin of the step's on (steps 3 to 6)."""
        messages, through = self._read(partition, step)
        step = replace(step, through=through)
        if not self.look(partition).goes_on(step.history):
            log.warning("the history of partition %d ended while it was read", partition)
            return
        self._ports.before_range()
        files = tuple(self._create(file, written) for file in self._files(step, messages))
        empty = self._manifest(partition, step)
        last = last_message(messages[-1]) if messages else empty.last
        manifest = replace(empty, commands=len(messages), last=last, files=files)
        if self._create_manifest(manifest, written):
            written.commands += len(messages)

    def _read(self, partition: int, step: WriteCommands) -> tuple[list[Message], int]:
        """Return the commands of the step's range, and through which position they are all."""
        taken: list[Message] = []
        size_bytes = 0
        with closing(
            self._topic.messages(partition, after=step.after, end=step.through + 1)
        ) as messages:
            for message in messages:
                taken.append(message)
                size_bytes += message.size_bytes
                if size_bytes >= self._range_bytes or len(taken) >= RANGE_COMMANDS:
                    return taken, message.position
        return taken, step.through

    def _files(self, step: WriteCommands, messages: Sequence[Message]) -> Iterator[NewFile]:
        if messages:
            yield commands_file(step, messages)
            yield from self._ports.make_rows(step, messages)

    def _create(self, file: NewFile, written: Written) -> ArchivedFile:
        store, name = self._ports.store, file.entry.name
        if store.create(name, file.content):
            written.files += 1
            written.size_bytes += len(file.content)
        elif (size_bytes := store.size_bytes(name)) != len(file.content):
            raise StateDamaged(
                f"a file of the archive has {size_bytes} bytes and not {len(file.content)}: the "
                "store doesn't create objects whole, or somebody changed it",
                where=f"{store.where}, {name}",
                next="Remove the object: no manifest names it yet.",
            )
        return file.entry

    def _write_hole(self, partition: int, step: WriteHole, written: Written) -> None:
        manifest = replace(self._manifest(partition, step), hole=step.reason)
        self._create_manifest(manifest, written)

    def _manifest(self, partition: int, step: WriteCommands | WriteHole) -> Manifest:
        """Return the manifest of the step's range, as if there were no command in it."""
        previous = step.previous
        return Manifest(
            topic_name=self._ports.topics.commands,
            partition=partition,
            history=step.history,
            after=step.after,
            through=step.through,
            commands=0,
            last=None if previous is None else previous.manifest.last,
            previous_sha256=None if previous is None else previous.sha256,
            written_by=self._written_by,
        )

    def _create_manifest(self, manifest: Manifest, written: Written) -> bool:
        name = manifest_name(manifest.partition, manifest.history, after=manifest.after)
        content = encode_manifest(manifest)
        is_mine = self._ports.store.create(name, content)
        if is_mine:
            written.manifests += 1
            written.size_bytes += len(content)
        elif self._ports.store.read(name) is None:
            raise ArchiveFailed(
                "a manifest exists and can't be read",
                where=f"{self._ports.store.where}, {name}",
                next="Check that readers of the store see what was written.",
            )
        else:
            written.lost_races += 1
        return is_mine


def commands_file(step: WriteCommands, messages: Sequence[Message]) -> NewFile:
    """Return the file with the exact commands of a range. messages: in order, at least one."""
    content = encode_commands(messages)
    name = commands_name(
        messages[0].partition,
        step.history,
        after=step.after,
        through=step.through,
        content=content,
    )
    times = [message.at_us for message in messages]
    by_broker = all(message.by_broker for message in messages)
    entry = ArchivedFile(
        name=name,
        kind=FileKind.COMMANDS,
        size_bytes=len(content),
        sha256=digest_of(content),
        rows=len(messages),
        first_position=messages[0].position,
        last_position=messages[-1].position,
        first_appended_at_us=min(times) if by_broker else None,
        last_appended_at_us=max(times) if by_broker else None,
    )
    return NewFile(entry, content)
