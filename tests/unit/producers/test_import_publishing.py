"""The session of an import, on Kafka in memory, with a log that the real flush plans fold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from import_cases import batches, listed_changes, source
from logs import Log
from notation import command, volume

from mirrorlog.changed.points import AtEnd, AtOrigin
from mirrorlog.changed.query import changed_blocks
from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import (
    AcceptedBatch,
    CommandKind,
    CommandStatus,
    StatusCode,
    TrackingCommand,
)
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.importers import (
    ImportBatch,
    ImportSession,
    PublishedImport,
    SessionStatuses,
)
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryPublisher

V = volume()
BLOCKS = range(0, 40, 3)


def kinds(log: Log, name: str) -> list[CommandKind]:
    commands = (
        decode(message.value or b"", TrackingCommand)
        for message in log.broker.messages(log.topics.commands)
    )
    return [command.kind for command in commands if command.session == name]


def session(log: Log, name: str, publisher: MemoryPublisher | None = None) -> ImportSession:
    return ImportSession(
        publisher or log.broker.publisher(),
        V,
        topic=log.topics.commands,
        host=f"import:{name}",
        session=name,
        clock=SystemClock(),
    )


def some_batches(tmp_path: Path, max_extents: int = 4) -> Iterator[ImportBatch]:
    (tmp_path / "list").write_bytes(
        listed_changes((4096 * block, 4096, block % 2 == 0) for block in BLOCKS)
    )
    return batches(source("extentlist", tmp_path / "list"), max_extents=max_extents)


def dirty(log: Log) -> set[int]:
    """Return the blocks that the log names."""
    log.flush(10_000)
    return set(changed_blocks("v", AtOrigin(), AtEnd(), log.ports()).changed)


def test_an_import_is_a_session_from_its_opening_to_its_close(tmp_path: Path) -> None:
    log = Log([V])
    log.publish([command(session="other")])
    result = session(log, "s").publish(some_batches(tmp_path), "import of extentlist list")
    published = kinds(log, "s")
    assert (published[0], published[-1]) == (CommandKind.SESSION_OPEN, CommandKind.SESSION_CLOSE)
    assert set(published[1:-1]) == {CommandKind.WRITES, CommandKind.MARK_DIRTY}
    assert result == PublishedImport(len(published), 1, len(published))
    sequences = [
        decode(m.value or b"", TrackingCommand).sequence
        for m in log.broker.messages(log.topics.commands)
    ]
    assert sequences[1:] == list(range(len(published)))
    assert dirty(log) == set(BLOCKS)
    assert not any(head.is_open for head in log.heads["v"].sessions if head.session == "s")


class CutOffPublisher(MemoryPublisher):
    """A publisher whose broker goes away for good after `after` messages."""

    def __init__(self, broker: MemoryBroker, after: int) -> None:
        super().__init__(broker)
        self._left = after

    def poll(self, timeout_s: float) -> None:
        take, self._queue = self._queue[: self._left], self._queue[self._left :]
        self._left -= len(take)
        rest, self._queue = self._queue, take
        super().poll(timeout_s)
        self._queue = rest

    def flush(self, deadline_s: float) -> None:
        self.poll(0)
        if self._queue:
            raise KafkaFailed("away")


class RefusingPublisher(MemoryPublisher):
    """A publisher whose third message the broker refuses. The next flush raises the error."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self._published = 0

    def publish(self, *message: object) -> None:  # type: ignore[override]
        self._published += 1
        if self._published != 3:
            super().publish(*message)  # type: ignore[arg-type]

    def poll(self, timeout_s: float) -> None:
        pass

    def flush(self, deadline_s: float) -> None:
        super().poll(0)
        if self._published >= 3:
            raise KafkaFailed("refused")


def test_a_session_without_one_of_its_commands_isnt_closed(tmp_path: Path) -> None:
    log = Log([V])
    with pytest.raises(KafkaFailed, match="refused"):
        session(log, "s", RefusingPublisher(log.broker)).publish(some_batches(tmp_path), "n")
    assert len(kinds(log, "s")) == 4
    assert CommandKind.SESSION_CLOSE not in kinds(log, "s")


@pytest.mark.parametrize("after", range(1, 6))
def test_an_interrupted_session_stays_open_until_a_second_import_and_a_close(
    tmp_path: Path, after: int
) -> None:
    log = Log([V])
    with pytest.raises(KafkaFailed):
        session(log, "s", CutOffPublisher(log.broker, after)).publish(some_batches(tmp_path), "n")
    assert len(kinds(log, "s")) == after
    dirty(log)
    assert [head.is_open for head in log.heads["v"].sessions] == [True]
    session(log, "t").publish(some_batches(tmp_path), "n")
    log.publish([command(session="s", sequence=-1, kind=CommandKind.SESSION_CLOSE)])
    assert dirty(log) == set(BLOCKS)
    assert not any(head.is_open for head in log.heads["v"].sessions)


def test_a_source_that_fails_on_the_second_pass_leaves_its_session_open(tmp_path: Path) -> None:
    def failing() -> Iterator[ImportBatch]:
        yield from list(some_batches(tmp_path))[:1]
        raise OSError

    log = Log([V])
    with pytest.raises(OSError):
        session(log, "s").publish(failing(), "n")
    assert CommandKind.SESSION_CLOSE not in kinds(log, "s")


def status(
    position: int, session: str | None, code: StatusCode = StatusCode.ACCEPTED
) -> CommandStatus:
    reason = "OUT_OF_RANGE" if code is StatusCode.REJECTED else None
    return CommandStatus(
        partition=0,
        position=position,
        code=code,
        reason=reason,
        text="text",
        at_us=1,
        volume="v",
        host="h",
        session=session,
        sequence=0,
    )


def test_each_status_of_the_session_counts_once() -> None:
    log = Log([V])
    topic = log.topics.status

    def answer(*events: CommandStatus | AcceptedBatch | bytes) -> None:
        for event in events:
            log.broker.append(topic, 0, b"v", event if isinstance(event, bytes) else encode(event))

    answer(status(0, "s", StatusCode.REJECTED))  # Before the session.
    statuses = SessionStatuses(log.broker.reader(), V, "s")
    statuses.start(log.broker, topic)
    answer(
        status(1, "s"),
        status(2, "other"),
        status(3, "s", StatusCode.REJECTED),
        b"not an event",
        status(3, "s"),
    )
    answer(
        AcceptedBatch(
            partition=0,
            at_us=1,
            volume="v",
            host="h",
            session="s",
            positions=np.array([3, 4, 5], np.int64),
            sequences=np.array([1, 2, 3], np.int64),
        )
    )
    statuses.wait(4, 1.0, SystemClock())
    assert statuses.counts == {StatusCode.ACCEPTED: 3, StatusCode.REJECTED: 1}
    assert statuses.refusals == ["OUT_OF_RANGE at position 3: text"]
    with pytest.raises(KafkaFailed, match="answered 4 of its 5"):
        statuses.wait(5, 0.0, SystemClock())
