"""A table follows the changelog, and a table of another history is rebuilt from it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from deadlines import DEADLINE_S

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.block_sets import BlockSet
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.streams import TopicReader
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_engine import MemoryStore
from mirrorlog.streams.table.changelog_follower import (
    ChangelogFollower,
    ChangelogSource,
    GatheredRows,
)
from mirrorlog.topics import TopicSpec
from mirrorlog.tracking_log.heads import SessionHead, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import head_key, record_key, watermark_key
from mirrorlog.tracking_log.records import LogRecord


class Store(MemoryStore):
    """Tables in memory. resets, emptied: the partitions for which each was called."""

    def __init__(self) -> None:
        super().__init__()
        self.resets: list[int] = []
        self.emptied: list[int] = []

    def reset(self, partition: int, changelog_identity: str) -> None:
        self.resets.append(partition)
        super().reset(partition, changelog_identity)

    def empty_write_buffer(self, partition: int, *, wait: bool) -> None:
        self.emptied.append(partition)
        super().empty_write_buffer(partition, wait=wait)


class World:
    """A changelog with two partitions, and its follower."""

    def __init__(self) -> None:
        self.broker, self.store, self.identity = MemoryBroker(), Store(), "first"
        self.broker.create([TopicSpec("log", {})], 2)
        changelog = ChangelogSource("log", self.broker.reader, self.bounds, lambda: self.identity)
        self.follower = ChangelogFollower(self.store, changelog)

    def bounds(self, partition: int) -> tuple[int, int]:
        return self.broker.first_position("log", partition), self.broker.end_position(
            "log", partition
        )

    def append(self, text: str, partition: int = 0) -> None:
        """Append rows: `a1 b2 a-` writes a=1 and b=2, and removes a."""
        for word in text.split():
            value = None if word[1:] == "-" else word[1:].encode()
            self.broker.append("log", partition, word[:1].encode(), value)

    def catch_up(self, *partitions: int) -> None:
        asyncio.run(self.follower.catch_up(partitions))

    def table(self, partition: int = 0) -> str:
        return " ".join(
            f"{key.decode()}{value.decode()}"
            for key, value in sorted(self.store.rows[partition].items())
        )


def test_a_table_takes_the_rows_that_exist_and_later_the_new_ones() -> None:
    world = World()
    world.append("a1 b2 a- c3")
    world.append("z9", partition=1)
    world.catch_up(0, 1)
    assert (world.table(), world.table(1)) == ("b2 c3", "z9")
    world.append("b- d4")
    world.catch_up(0, 1)
    assert (world.table(), world.table(1)) == ("c3 d4", "z9")
    assert world.store.resets == [0, 1]  # once each: they were empty
    world.broker.compact("log", 0)
    world.append("e5")
    world.catch_up(0)
    assert (world.table(), world.store.resets) == ("c3 d4 e5", [0, 1])


def test_of_what_tables_gather_in_memory_the_fullest_goes_to_a_file_when_all_have_no_room() -> None:
    gathered = GatheredRows(limit_bytes=9)
    key = b"k"
    assert gathered.add(0, [(key, b"four"), (key, None)]) is None
    assert gathered.add(1, [(key, b"")]) is None
    assert gathered.add(1, [(key, b"2")]) == 0  # 6 and 3 bytes
    assert gathered.add(0, [(key, b"")]) is None
    assert gathered.add(2, [(key, bytes(50))]) == 2
    assert gathered.add(0, [(key, b"three")]) == 0


@pytest.mark.parametrize("stands_by", [False, True], ids=["catches up", "stands by"])
def test_a_table_that_is_read_into_keeps_little_in_memory(
    stands_by: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirrorlog.streams.table.changelog_follower._ROWS_AT_ONCE", 1)
    world = World()
    for number in range(80):
        world.broker.append("log", 0, b"k%d" % number, bytes(1 << 20))

    async def follow() -> None:
        task = asyncio.create_task(world.follower.stand_by([0]))
        async with asyncio.timeout(DEADLINE_S):
            while len(world.store.rows.get(0, {})) < 80:
                await asyncio.sleep(0)
        task.cancel()

    asyncio.run(follow() if stands_by else world.follower.catch_up([0]))
    assert world.store.emptied == [0, 0]  # each 32 MiB


# what happens to the changelog `a1 b2 c3` after a table has taken all of it
@pytest.mark.parametrize(
    "case", ["another topic", "ends earlier", "ends earlier and grew", "begins later"]
)
def test_a_table_that_does_not_match_the_changelog_is_rebuilt(case: str) -> None:
    world = World()
    world.append("a1 b2 c3")
    world.catch_up(0)
    changelog = world.broker.partition("log", 0)
    if case == "another topic":
        world.identity = "second"
    if case.startswith("ends earlier"):
        changelog.messages, changelog.end = changelog.messages[:1], 1
    if case == "ends earlier and grew":
        world.append("d4 e5 f6")
    if case == "begins later":
        world.append("d4 e5 f6")
        world.broker.trim("log", 0, 4)
    expected = {"another topic": "a1 b2 c3", "ends earlier": "a1", "begins later": "e5 f6"}.get(
        case, "a1 d4 e5 f6"
    )
    world.catch_up(0)
    assert world.table() == expected
    assert len(resets := list(world.store.resets)) > 1
    world.catch_up(0)
    assert (world.table(), world.store.resets) == (expected, resets)


def mark(through: int) -> bytes:
    return encode(Watermark(partition=0, through=through, at_us=0))


# what the changelog has behind its first row when the killed worker starts | whether that shows
# that it went back in time. W9 is the watermark that the worker took at position 3 and lost.
AFTER_KILL = """
b2 c3 W9          | no
b2 c3 W9 d4       | no
b2 c3 . d4 W12    | no
b2                | the changelog ends at 2
b2 c3             | the changelog ends at 3
b2 c3 W8          | the row at position 3
b2 c3 d4          | the row at position 3
b2 c3 d4 W9       | the row at position 3
"""


@pytest.mark.parametrize("has_file", [True, False])
@pytest.mark.parametrize("case", AFTER_KILL.strip().splitlines())
def test_a_worker_that_was_killed_knows_what_it_lost(
    case: str, has_file: bool, caplog: pytest.LogCaptureFixture
) -> None:
    words, reason = (part.strip() for part in case.split("|"))
    world = World()
    world.append("a1")
    world.catch_up(0)
    if has_file:
        world.store.empty_write_buffer(0, wait=True)
    world.append("b2 c3")
    world.broker.append("log", 0, watermark_key(0), mark(9))
    world.catch_up(0)
    world.store.lose_write_buffer(0)
    assert (world.store.changelog_position(0), world.store.resets) == (0 if has_file else None, [0])
    log = world.broker.partition("log", 0)
    log.messages, log.end = log.messages[:1], 1
    for word in words.split():
        if word == ".":  # the watermark of position 3 was compacted away
            log.end += 1
        elif word[0] == "W":
            world.broker.append("log", 0, watermark_key(0), mark(int(word[1:])))
        else:
            world.append(word)
    caplog.clear()
    world.catch_up(0)
    assert ("".join(caplog.messages) or "no").count(reason) == 1
    kept = world.store.discarded(0)
    assert kept == ({} if reason == "no" else {watermark_key(0): mark(9)})
    written = [word for word in words.split() if word[0] not in "W."]
    assert {key: value for key, value in world.store.rows[0].items() if len(key) == 1} == {
        word[0].encode(): word[1:].encode() for word in ["a1", *written]
    }


class HeadWorld(World):
    """A changelog with heads and records of the volume v."""

    def append_head(self, text: str) -> None:
        """Append `GENERATION/EPOCH THROUGH SESSION@LAST …`."""
        log, through, *sessions = text.split()
        generation, epoch = log.split("/")
        named = (word.split("@") for word in sessions)
        head = VolumeHead(
            "v",
            generation,
            through=int(through),
            sessions=tuple(
                SessionHead(name, "host", opened_position=int(last), last_position=int(last))
                for name, last in named
            ),
            epoch=int(epoch),
        )
        self.broker.append("log", 0, head_key("v"), encode(head))

    def append_record(self, through: int, generation: str = "g") -> None:
        record = LogRecord(
            volume="v",
            generation=generation,
            tier=0,
            after=-1,
            through=through,
            block_size=512,
            changed=BlockSet([1]),
            zeroed=BlockSet(),
            first_at_us=0,
            last_at_us=0,
            commands=1,
            writes=1,
            bytes_written=512,
            hosts=(),
        )
        self.broker.append("log", 0, record_key(record), encode(record))

    def head(self) -> str:
        """Return the table's head as append_head() takes it."""
        head = decode(self.store.rows[0][head_key("v")], VolumeHead)
        sessions = (f" {session.session}@{session.last_position}" for session in head.sessions)
        return f"{head.generation}/{head.epoch} {head.through}{''.join(sessions)}"


# heads as they follow each other | what the table keeps
HEADS = """
g/1 20 b@19, g/1 10 a@9       | g/1 20 b@19
g/1 10 a@9, g/1 20 a@9 b@19   | g/1 20 a@9 b@19
g/1 20 a@18, g/1 10 a@9       | g/1 20 a@18
g/1 20 a@9, g/2 5 a@4         | g/2 5 a@4
g/2 5 a@4, g/1 20 a@9         | g/1 20 a@9
g/1 20 a@9, h/1 5 a@21        | h/1 5 a@21
"""


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("case", HEADS.strip().splitlines())
def test_an_older_head_of_the_same_log_does_not_replace_a_newer_one(
    case: str, at_once: bool
) -> None:
    heads, kept = (part.strip() for part in case.split("|"))
    world = HeadWorld()
    for head in heads.split(", "):
        world.append_head(head)
        if not at_once:
            world.catch_up(0)
    world.catch_up(0)
    assert world.head() == kept
    world.append("a1")
    world.catch_up(0)
    assert (world.head(), world.store.resets) == (kept, [0])


@pytest.mark.parametrize(("generation", "through"), [("g", 20), ("f", 10)])
def test_a_head_whose_newer_one_was_compacted_away_ends_where_its_records_do(
    generation: str, through: int
) -> None:
    world = HeadWorld()
    world.append_head("g/1 10 a@9")
    world.append_record(10)
    world.append_record(20, generation)
    world.catch_up(0)
    assert world.head() == f"g/1 {through} a@9"


def test_a_standby_that_fails_at_each_try_is_logged_once_and_when_it_works_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mirrorlog.streams.table.changelog_follower._RETRY_S", 0.0)
    world, tries = World(), 0

    def open_reader() -> TopicReader:
        nonlocal tries
        tries += 1
        if tries < 50:
            raise KafkaFailed("no broker answers")
        return world.broker.reader()

    changelog = ChangelogSource("log", open_reader, world.bounds, lambda: "first")
    world.append("a1")

    async def test() -> None:
        following = asyncio.create_task(ChangelogFollower(world.store, changelog).stand_by([0]))
        async with asyncio.timeout(DEADLINE_S):
            while "works again" not in caplog.text:
                await asyncio.sleep(0)
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following

    asyncio.run(test())
    first, last = caplog.messages
    assert first == "standing by for partitions 0: no broker answers."
    assert last.startswith("standing by for partitions 0 works again after 49 failures in ")


def test_a_standby_follows_until_it_is_cancelled() -> None:
    world = World()

    async def test() -> None:
        following = asyncio.create_task(world.follower.stand_by([0, 1]))
        for text in ("a1 b2", "a- c3"):
            world.append(text)
            async with asyncio.timeout(DEADLINE_S):
                while world.store.changelog_position(0) != world.bounds(0)[1] - 1:
                    await asyncio.sleep(0)
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following

    asyncio.run(test())
    assert world.table() == "b2 c3"
