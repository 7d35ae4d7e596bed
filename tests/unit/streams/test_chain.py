"""The tree of a partition grows with its commands and never forks, whatever happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from chained_topics import TOPICS, ChainedTopics
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlog.errors import StateDamaged
from mirrorlog.ports.streams import Message
from mirrorlog.simulation.memory_log_files import LogFilesCrashed, MemoryLogStore
from mirrorlog.streams.chain import partition_chain
from mirrorlog.streams.chain.partition_chain import PartitionChain, read_head
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.command_chain import CommandEntry, command_digest, first_link
from mirrorlog.transparency.growing_log import GrowingLog
from mirrorlog.transparency.log_names import LogName
from mirrorlog.transparency.merkle import (
    consistency_proof,
    is_consistent,
    leaf_hash,
    range_root,
)
from mirrorlog.transparency.tiles import HEAD_FILE, TiledLog


def heads(store: MemoryLogStore) -> dict[str, TreeHead]:
    """Return the head of each tree, by its folder."""
    found_heads = {name: read_head(store.open(name)) for name in store.folders(0)}
    return {name: head for name, head in found_heads.items() if head is not None}


def only_head(topics: ChainedTopics) -> TreeHead:
    (head,) = heads(topics.store).values()
    return head


def tiled(store: MemoryLogStore, folder: str) -> TiledLog:
    head = heads(store)[folder]
    return TiledLog(store.open(folder).read, head.size, where=folder)


def commands_in(store: MemoryLogStore, folder: str) -> list[CommandEntry]:
    log = tiled(store, folder)
    return [CommandEntry.parse(log.entry(index), where=folder) for index in range(log.size)]


def test_every_recorded_command_is_a_leaf_and_no_other() -> None:
    topics = ChainedTopics()
    topics.write(300)
    topics.broker.append_marker(TOPICS.commands, 0)
    topics.write(40)
    topics.record(through=335)
    topics.write(5)
    (progress,) = topics.builder().advance()
    assert (progress.added, progress.size, progress.position) == (335, 335, 335)
    (folder,) = topics.store.folders(0)
    kept = [m for m in topics.broker.messages(TOPICS.commands) if m.position <= 335]
    link, origin = first_link(only_head(topics).origin), only_head(topics).origin
    assert LogName.parse(origin, where="a test").folder == folder
    for message, entry in zip(kept, commands_in(topics.store, folder), strict=True):
        digest = command_digest(message.key, message.value)
        assert entry == CommandEntry(message.position, digest, link)
        link = leaf_hash(entry.as_bytes())
    log = tiled(topics.store, folder)
    assert range_root(log, 0, log.size) == only_head(topics).root


def test_a_tree_is_the_same_however_often_it_was_made_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partition_chain, "COMMIT_LEAVES", 64)
    monkeypatch.setattr(partition_chain, "_CHAINED_AT_ONCE", 16)
    topics = ChainedTopics()
    topics.write(700)
    topics.record()
    topics.builder().advance()
    at_once, topics.store = topics.store, MemoryLogStore()
    for through in (0, 1, 255, 256, 300, 511, 699):
        topics.record(through=through)
        topics.builder().advance()
    (folder,) = topics.store.folders(0)
    assert heads(topics.store) == heads(at_once)
    full = {path for path in at_once.files[folder] if ".p/" not in path}
    assert {path: topics.store.files[folder][path] for path in full} == {
        path: at_once.files[folder][path] for path in full
    }


def crash_at_every_step() -> None:
    """Kill the builder at each step of a commit in turn; check what is left, and go on."""
    expected = ChainedTopics()
    expected.write(600)
    expected.record()
    expected.builder().advance()
    steps, crashed = 0, True
    while crashed:
        topics = ChainedTopics()
        topics.write(280)
        topics.record()
        topics.builder().advance()
        before = only_head(topics)
        topics.write(320)
        topics.record()
        topics.store.steps_left = steps
        try:
            topics.builder().advance()
            crashed = False
        except LogFilesCrashed:
            steps += 3
        topics.store.steps_left = None
        head, (folder,) = only_head(topics), topics.store.folders(0)
        log = tiled(topics.store, folder)
        assert range_root(log, 0, head.size) == head.root
        proof = consistency_proof(log, before.size, head.size)
        assert is_consistent(before.size, head.size, proof, before.root, head.root)
        assert commands_in(topics.store, folder)[-1].position == head.size - 1
        topics.builder().advance()
        assert heads(topics.store) == heads(expected.store)
    assert steps > 20


@pytest.fixture
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a tree durable after each 100 leaves."""
    monkeypatch.setattr(partition_chain, "COMMIT_LEAVES", 100)
    monkeypatch.setattr(partition_chain, "_CHAINED_AT_ONCE", 50)


@pytest.mark.usefixtures("small_commits")
def test_a_crash_at_any_step_forks_nothing() -> None:
    crash_at_every_step()


@pytest.mark.usefixtures("small_commits")
def test_a_head_that_is_written_before_its_files_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def commit(chain: PartitionChain) -> None:
        head = TreeHead(chain.name.origin, chain.tree.size, chain.tree.root)
        chain.files.replace(HEAD_FILE, head.as_text().encode())
        chain.files.write(chain.tree.commit())

    monkeypatch.setattr(PartitionChain, "_commit", commit)
    with pytest.raises((AssertionError, StateDamaged)):
        crash_at_every_step()


@pytest.mark.usefixtures("small_commits")
def test_a_tree_that_writes_files_of_an_earlier_head_again_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def commit(tree: GrowingLog) -> dict[str, bytes]:
        files, tree._full = tree._full, {}
        return files | tree._partial_files()

    monkeypatch.setattr(GrowingLog, "commit", commit)
    with pytest.raises((AssertionError, StateDamaged)):
        crash_at_every_step()


def test_a_lost_disk_gives_the_same_tree_while_the_commands_are_kept() -> None:
    topics = ChainedTopics()
    topics.write(300)
    topics.record()
    topics.builder().advance()
    before, topics.store = topics.store, MemoryLogStore()
    topics.builder().advance()
    assert topics.store.files == before.files


def test_another_tree_begins_where_retention_took_commands_first() -> None:
    topics = ChainedTopics()
    topics.write(10)
    topics.record()
    builder = topics.builder()
    builder.advance()
    topics.write(10)
    topics.record()
    topics.broker.trim(TOPICS.commands, 0, 15)
    first = only_head(topics)
    builder.advance()
    names = sorted(heads(topics.store))
    assert [name.rpartition("-")[2] for name in names] == ["0", "15"]
    assert heads(topics.store)[names[0]] == first
    assert [entry.position for entry in commands_in(topics.store, names[1])] == [15, 16, 17, 18, 19]
    topics.write(1)
    topics.record()
    topics.builder().advance()
    assert heads(topics.store)[names[1]].size == 6


def test_retention_of_what_is_in_the_tree_changes_nothing() -> None:
    topics = ChainedTopics()
    topics.write(10)
    topics.record()
    topics.builder().advance()
    topics.write(2)
    topics.record()
    topics.broker.trim(TOPICS.commands, 0, 10)
    topics.builder().advance()
    assert only_head(topics).size == 12


def test_a_renewed_history_has_a_tree_of_its_own() -> None:
    topics = ChainedTopics()
    topics.write(10)
    topics.record()
    builder = topics.builder()
    builder.advance()
    first = only_head(topics)
    topics.broker.rewind(TOPICS.commands, 0, 6)
    topics.write(8, "another")
    topics.epoch = 2
    topics.record()
    builder.advance()
    both = heads(topics.store)
    assert sorted(head.size for head in both.values()) == [10, 14]
    assert first in both.values()
    topics.epoch = 1
    topics.record(through=5)  # a worker that hasn't noticed
    builder.advance()
    assert heads(topics.store) == both


def replace_commands(*, recorded_again: bool) -> None:
    """Let the topic go back and hold other commands, which the node hasn't noticed."""
    topics = ChainedTopics()
    topics.write(10)
    topics.record()
    topics.builder().advance()
    before = only_head(topics)
    if not recorded_again:
        topics.write(4)
        topics.record()  # the node recorded 14 commands, and the topic then goes back
    topics.broker.rewind(TOPICS.commands, 0, 6)
    topics.write(9, "another")
    if recorded_again:
        topics.record()
    (progress,) = topics.builder().advance()
    assert (progress.added, only_head(topics)) == (0, before)
    assert "isn't the one" in progress.trouble


@pytest.mark.parametrize("recorded_again", [False, True])
def test_commands_that_were_replaced_unnoticed_stay_out(recorded_again: bool) -> None:
    replace_commands(recorded_again=recorded_again)


@pytest.mark.parametrize("recorded_again", [False, True])
def test_a_tree_that_takes_what_it_finds_is_found_out(
    monkeypatch: pytest.MonkeyPatch, recorded_again: bool
) -> None:
    def behind_newest(
        chain: PartitionChain, messages: Iterable[Message], _: Watermark
    ) -> Iterator[tuple[int, bytes | None, bytes | None]]:
        newest = chain.position
        return ((m.position, m.key, m.value) for m in messages if m.position > newest)

    monkeypatch.setattr(PartitionChain, "_behind_newest", behind_newest)
    with pytest.raises(AssertionError):
        replace_commands(recorded_again=recorded_again)


def test_a_topic_that_ends_below_the_watermark_is_another_one() -> None:
    topics = ChainedTopics()
    topics.write(10)
    topics.record()
    topics.broker.rewind(TOPICS.commands, 0, 6)
    (progress,) = topics.builder().advance()
    assert (progress.added, only_head(topics).size) == (0, 0)
    assert "ends at 6" in progress.trouble


def test_damaged_files_stop_the_tree_and_are_named() -> None:
    topics = ChainedTopics()
    topics.write(10)
    topics.record()
    topics.builder().advance()
    (folder,) = topics.store.folders(0)
    files = topics.store.files[folder]
    files["tile/0/000.p/10"] = files["tile/0/000.p/10"][:-1] + b"x"
    topics.write(1)
    topics.record()
    (progress,) = topics.builder().advance()
    assert progress.added == 0
    assert "root" in progress.trouble
    assert folder in progress.trouble


def test_a_folder_that_was_moved_away_is_made_again() -> None:
    topics = ChainedTopics()
    topics.write(10)
    topics.record()
    topics.builder().advance()
    (folder,) = topics.store.folders(0)
    before = topics.store.files.pop(folder)
    topics.store.files[f"{folder}.damaged"] = {**before, "tile/0/000.p/10": b""}
    (progress,) = topics.builder().advance()
    assert (progress.added, progress.trouble) == (10, "")
    assert topics.store.files[folder] == before


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 300)),
        st.tuples(st.sampled_from(["record", "marker", "build", "restart", "trim"]), st.just(0)),
        st.tuples(st.sampled_from(["crash", "rewind"]), st.integers(0, 30)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_two_heads_of_one_name_are_always_consistent(steps: list[tuple[str, int]]) -> None:
    """Every head that was ever durable is the beginning of every later one of its name."""
    topics = ChainedTopics()
    builder = topics.builder()
    seen: dict[str, TreeHead] = {}
    for step, number in steps:
        if step == "write":
            topics.write(number, f"command of {topics.epoch}")
        elif step == "record":
            topics.record()
        elif step == "marker":
            topics.broker.append_marker(TOPICS.commands, 0)
        elif step == "restart":
            builder = topics.builder()
        elif step == "trim":
            first, end = topics.broker.bounds(TOPICS.commands, 0)
            topics.broker.trim(TOPICS.commands, 0, (first + end) // 2)
        elif step == "rewind":
            first, end = topics.broker.bounds(TOPICS.commands, 0)
            topics.broker.rewind(TOPICS.commands, 0, max(first, end - number))
            topics.epoch += 1
        else:
            topics.store.steps_left = number if step == "crash" else None
            try:
                builder.advance()
            except LogFilesCrashed:
                builder = topics.builder()
            topics.store.steps_left = None
        for folder, head in heads(topics.store).items():
            older = seen.get(folder, TreeHead(head.origin, 0, range_root(EMPTY, 0, 0)))
            proof = consistency_proof(tiled(topics.store, folder), older.size, head.size)
            assert is_consistent(older.size, head.size, proof, older.root, head.root)
            seen[folder] = head


EMPTY = TiledLog({}.get, 0, where="a test")
