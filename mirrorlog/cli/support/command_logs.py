"""The logs of commands that this machine keeps: where they are, and how far they have grown."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from mirrorlog.adapters.folders import lock_folder
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.adapters.log_folder import LogFolder, LogFolders
from mirrorlog.cli.support.lookup import patience_for
from mirrorlog.errors import BadUse, KafkaFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.newest_watermark import newest_watermark
from mirrorlog.reading.read_through import read_range
from mirrorlog.settings import Settings
from mirrorlog.streams.chain.chain_builder import ChainBuilder
from mirrorlog.streams.chain.partition_chain import PartitionChain, read_head
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.transparency.command_chain import CommandEntry
from mirrorlog.transparency.log_names import LogName
from mirrorlog.transparency.tiles import TILE_WIDTH, TiledLog


def log_folders(settings: Settings) -> LogFolders:
    """Return the logs of the setting `chain_dir`. Raise BadUse if it isn't set."""
    return LogFolders(chain_folder(settings))


def chain_folder(settings: Settings) -> Path:
    """Return the setting `chain_dir`. Raise BadUse if it isn't set."""
    if settings.kafka_mirror_of:
        raise BadUse(
            "a mirror of the log doesn't keep its positions, so no tree is grown or checked on it",
            where="kafka_mirror_of",
            next=f"Run this on the cluster {settings.kafka_mirror_of}.",
        )
    if settings.chain_dir is None:
        raise BadUse(
            "no folder for the trees of commands is named",
            where="chain_dir",
            next="Set MIRRORLOG_CHAIN_DIR to a folder, the same for the node and for `audit`.",
        )
    return settings.chain_dir.absolute()


@contextmanager
def chain_builder(settings: Settings) -> Iterator[ChainBuilder]:
    """Lock the folder of the logs, and yield a builder of them.

    Raise BadUse if another process has locked it, or if the setting `chain_dir` isn't set.
    """
    folder = chain_folder(settings)
    lock = lock_folder(folder)
    try:
        client = settings.kafka_client()
        with closing(KafkaAdmin(client)) as admin:
            yield ChainBuilder(
                lambda: KafkaReader(client),
                admin,
                settings.topics,
                LogFolders(folder),
                SystemClock(),
            )
    finally:
        os.close(lock)


def watermarks(settings: Settings) -> dict[int, Watermark]:
    """Return the watermark of each partition whose log has one and names its history."""
    client, patience = settings.kafka_client(), patience_for("reading how far the log is complete")
    with closing(KafkaAdmin(client)) as admin:
        newest = {
            partition: newest_watermark(
                lambda: KafkaReader(client), admin, settings.topics.changelog, partition, patience
            )
            for partition in range(admin.partitions(settings.topics.commands))
        }
    return {
        partition: watermark
        for partition, watermark in newest.items()
        if watermark is not None and watermark.history is not None
    }


def grow_now(settings: Settings, wait_s: float) -> None:
    """Grow the trees up to what the log holds at the call.

    If another process grows them, wait for it, `wait_s` seconds at most. Raise KafkaFailed if they
    are behind then.
    """
    chain_folder(settings)  # without one, this raises
    with ExitStack() as opened:
        try:
            builder = opened.enter_context(chain_builder(settings))
        except BadUse:  # another process has locked the folder
            _await_growth(settings, wait_s)
            return
        builder.advance()


def _await_growth(settings: Settings, wait_s: float) -> None:
    from mirrorlog.cli.support.waiting import look_until

    wanted = watermarks(settings)
    behind = look_until(lambda: _trees_behind(settings, wanted), operator.not_, wait_s)
    if behind:
        partition, lag = next(iter(behind.items()))
        raise KafkaFailed(
            f"the tree of partition {partition} is behind the log: {lag}",
            where=str(chain_folder(settings)),
            next="Another process grows the trees (`mirrorlog audit chain`, or a node). See its "
            "log, or wait longer (--wait).",
        )


def _trees_behind(settings: Settings, wanted: Mapping[int, Watermark]) -> dict[int, str]:
    """Return, by partition, how far the trees are that don't reach the watermarks."""
    behind = {}
    for partition, watermark in wanted.items():
        assert watermark.history is not None
        chain = PartitionChain.newest(log_folders(settings), partition, watermark.history.id)
        if chain is None or _has_command(settings, partition, chain.position, watermark):
            position = None if chain is None or not chain.tree.size else chain.position
            behind[partition] = f"it ends at {position}, and the log at {watermark.through}"
    return behind


def _has_command(settings: Settings, partition: int, position: int, watermark: Watermark) -> bool:
    """Return whether a command lies behind the position, through the watermark."""
    client = settings.kafka_client()
    messages = read_range(
        lambda: KafkaReader(client),
        settings.topics.commands,
        partition,
        patience_for("reading the commands behind the tree"),
        start=position + 1,
        end=watermark.through + 1,
    )
    with closing(messages):
        return next(messages, None) is not None


def newest_chains(settings: Settings) -> list[PartitionChain]:
    """Return the tree of each partition in its present history, of those that have a leaf."""
    store = log_folders(settings)
    chains = (
        PartitionChain.newest(store, partition, watermark.history.id)
        for partition, watermark in watermarks(settings).items()
        if watermark.history is not None
    )
    return [chain for chain in chains if chain is not None and chain.tree.size]


def log_named(settings: Settings, origin: str, *, where: str) -> LogFolder | None:
    """Return the files of the log of this origin; None if this machine has none.

    Raise BadInput if the origin is no log of commands.
    """
    if settings.chain_dir is None:
        return None
    files = log_folders(settings).open(LogName.parse(origin, where=where).folder)
    head = read_head(files)
    return files if head is not None and head.origin == origin else None


def leaf_at(files: TiledLog, position: int) -> int | None:
    """Return the index of the leaf at a position; None if the log has none there.

    Raise StateDamaged if a file is missing. The entries are in the order of their positions.
    """
    low, high = 0, -(-files.size // TILE_WIDTH) - 1
    while low < high:
        middle = (low + high + 1) // 2
        first = CommandEntry.parse(files.entries(middle)[0], where=f"bundle {middle}")
        low, high = (middle, high) if first.position <= position else (low, middle - 1)
    for place, entry in enumerate(files.entries(low) if files.size else []):
        if CommandEntry.parse(entry, where=f"bundle {low}").position == position:
            return low * TILE_WIDTH + place
    return None
