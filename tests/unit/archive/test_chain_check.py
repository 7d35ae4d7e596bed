"""The archive against the tree of its partition: each difference is named by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from archiving import ArchiveWorld

from mirrorlog.archive.archive import Archive
from mirrorlog.archive.command_files import encode_commands
from mirrorlog.archive.manifests import decode_manifest, digest_of, encode_manifest
from mirrorlog.consumers.archive.chain_check import CheckedTree, check_against_tree
from mirrorlog.consumers.archive.verify import verify_archive
from mirrorlog.errors import DifferenceFound
from mirrorlog.ports.streams import Message
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.command_chain import chain, first_link
from mirrorlog.transparency.growing_log import GrowingLog
from mirrorlog.transparency.log_names import LogName
from mirrorlog.transparency.tiles import TiledLog

pytest.importorskip("pyarrow")


def _tree(world: ArchiveWorld, leaves: int) -> tuple[LogName, TiledLog, TreeHead]:
    """Return the tree of the topic's first commands."""
    history = world.history
    name = LogName(cluster=history.cluster, topic="topic", partition=0, history=history.id, first=0)
    messages = world.broker.messages(world.topics.commands)[:leaves]
    tree, files = GrowingLog(), dict[str, bytes]()
    commands = [(message.position, message.key, message.value) for message in messages]
    tree.append(*chain(commands, first_link(name.origin)))
    files.update(tree.commit())
    head = TreeHead(origin=name.origin, size=tree.size, root=tree.root)
    return name, TiledLog(files.get, tree.size, where="memory"), head


def _world() -> ArchiveWorld:
    world = ArchiveWorld()
    for number in range(30):
        world.write("v", [(number * 4096, 4096)])
        if number % 7 == 3:
            world.broker.append_marker(world.topics.commands, 0)
    world.record()
    world.archiver(range_bytes=1000).run_partition(0)
    return world


def _check(world: ArchiveWorld, leaves: int = 30) -> CheckedTree:
    archive = Archive(world.store)
    list(verify_archive(archive))  # whatever was done to it, its own checksums agree
    (stored,) = archive.chains(0)
    return check_against_tree(archive, stored, *_tree(world, leaves))


def _rewrite(world: ArchiveWorld, messages: Sequence[Message]) -> None:
    """Write the archive again, with these messages and valid checksums, as a forger can."""
    names = sorted(name for name in world.store.objects if name.startswith("manifests/"))
    manifest = decode_manifest(world.store.objects[names[-1]], names[-1])
    content = encode_commands(messages)
    file = replace(
        manifest.files[0],
        size_bytes=len(content),
        sha256=digest_of(content),
        rows=len(messages),
        first_position=messages[0].position,
        last_position=messages[-1].position,
    )
    world.store.objects = {file.name: content}
    forged = replace(
        manifest, after=-1, commands=len(messages), previous_sha256=None, files=(file,)
    )
    world.store.objects[names[0]] = encode_manifest(forged)


def test_an_archive_that_holds_what_the_tree_holds() -> None:
    assert _check(_world()).compared == 30
    assert (_check(_world(), leaves=20).compared, _check(_world(), leaves=20).not_in_tree) == (
        20,
        10,
    )


@pytest.mark.parametrize("place", [0, 11, 29])
def test_one_command_altered_dropped_or_exchanged_is_named(place: int) -> None:
    world = _world()
    messages = world.broker.messages(world.topics.commands)
    position = messages[place].position
    value = bytearray(messages[place].value or b"")
    value[-1] ^= 1
    altered = [*messages[:place], replace(messages[place], value=bytes(value))]
    cases = {
        "altered": altered + messages[place + 1 :],
        "dropped": messages[:place] + messages[place + 1 :],
    }
    if place < 29:
        one, other = messages[place], messages[place + 1]
        swapped = [replace(other, position=one.position), replace(one, position=other.position)]
        cases["is here"] = messages[:place] + swapped + messages[place + 2 :]
    for finding, forged in cases.items():
        _rewrite(world, forged)
        with pytest.raises(DifferenceFound, match=rf"first at position {position}: .*{finding}"):
            _check(world)


def test_one_command_that_was_added_is_named() -> None:
    world = _world()
    messages = world.broker.messages(world.topics.commands)
    gap = next(p for p in range(40) if p not in {m.position for m in messages})
    added = sorted([*messages, replace(messages[0], position=gap)], key=lambda m: m.position)
    _rewrite(world, added)
    with pytest.raises(DifferenceFound, match=f"first at position {gap}: a command was added"):
        _check(world)


def test_a_forged_tree_is_no_proof() -> None:
    world = _world()
    archive = Archive(world.store)
    name, files, head = _tree(world, 30)
    forged = replace(head, root=bytes(32))
    with pytest.raises(DifferenceFound, match="root"):
        check_against_tree(archive, archive.chains(0)[0], name, files, forged)
