"""Sees when a site has made positions durable, and whether the secondary held their blocks then.

bench_lag.py says why it looks at these two things.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt
from lag_writer import BLOCK_BYTES, contents
from pinned import ProgramFailed

from mirrorlog.adapters.kafka import KafkaReader
from mirrorlog.codec.events import decode
from mirrorlog.consumers.state.state_files import decode_state
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.streams import Message
from mirrorlog.settings import Settings

_LOOK_S: Final = 0.002
_SAMPLES: Final = 32
"""Blocks that are looked up on the secondary, for each position that is seen."""


@dataclass(frozen=True, slots=True)
class SeenState:
    """A saved state of the secondary, and when it was seen (monotonic, in nanoseconds).

    applied, consistent: the positions that it claims; -1 for none.
    """

    at_ns: int
    applied: int
    consistent: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Whether a block held what the pass writes when the state with this position was seen."""

    applied: int
    block: int
    is_there: bool


class CommandFollower:
    """The commands of a volume: by position, the blocks and when Kafka appended the command.

    last_positions: by block, the position of the last command that names it; -1 for none.
    appended_us: by position, microseconds since 1970.
    """

    def __init__(self, settings: Settings, volume: Volume) -> None:
        self._volume: Final = volume
        self._reader: Final = KafkaReader(settings.kafka_client())
        self._topic: Final = settings.topics.commands
        self._blocks: Final[dict[int, npt.NDArray[np.int64]]] = {}
        self.appended_us: Final[dict[int, int]] = {}
        self.last_positions = np.full(volume.blocks, -1, np.int64)

    def begin(self, end: int) -> None:
        """Forget everything, and follow the commands from position `end` on."""
        self._blocks.clear()
        self.appended_us.clear()
        self.last_positions[:] = -1
        self._reader.assign(self._topic, {self._volume.partition: end})

    def follow(self, timeout_s: float = 0.0) -> None:
        """Take the commands that have arrived."""
        for message in self._reader.poll(timeout_s):
            self._take(message)

    def named(self, after: int, through: int) -> list[int]:
        """Return the blocks that the known commands in (after, through] name."""
        positions = [number for number in self._blocks if after < number <= through]
        return [block for number in positions for block in self._blocks[number].tolist()]

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()

    def _take(self, message: Message) -> None:
        if message.value is None or message.key != self._volume.volume.encode():
            return
        command = decode(message.value, TrackingCommand)
        if command.kind is not CommandKind.WRITES:
            return
        firsts = (command.extents.offsets // BLOCK_BYTES).astype(np.int64)
        counts = (command.extents.lengths // BLOCK_BYTES).astype(np.int64)
        begins = np.repeat(firsts - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
        blocks = begins + np.arange(int(counts.sum()))
        self._blocks[message.position] = blocks
        self.appended_us[message.position] = message.at_us
        self.last_positions[blocks] = message.position


@dataclass(slots=True)
class Observer:
    """Watches the saved state of one secondary, which is in `state_file`.

    states: those that were seen since begin(), each with other positions. samples: of them.
    """

    state_file: Path
    volume: Volume
    secondary: Path
    commands: CommandFollower
    states: list[SeenState] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    _seen: tuple[int, int] = (0, 0)
    _random: Random = field(default_factory=lambda: Random(12))

    def begin(self, end: int) -> None:
        """Begin to observe a pass whose commands have positions from `end` on."""
        self.commands.begin(end)
        self.states.clear()
        self.samples.clear()

    def watch(self, number: int, is_over: Callable[[], bool], deadline_s: float) -> None:
        """Look until `is_over()`. number: of the pass. Raise ProgramFailed at the deadline."""
        until = time.monotonic() + deadline_s
        while not is_over():
            if time.monotonic() > until:
                raise ProgramFailed(f"the pass isn't over after {deadline_s:g} s")
            if (state := self._look()) is not None:
                before = self.states[-1].applied if self.states else -1
                self.states.append(state)
                self._take_samples(number, before, state.applied)
            self.commands.follow()
            time.sleep(_LOOK_S)

    def _look(self) -> SeenState | None:
        """Return the saved state if it has other positions than the last one that was seen."""
        try:
            status = self.state_file.stat()
            if self._seen == (status.st_ino, status.st_mtime_ns):
                return None
            content = self.state_file.read_bytes()
        except FileNotFoundError:
            return None
        at_ns = time.monotonic_ns()
        self._seen = (status.st_ino, status.st_mtime_ns)
        state = decode_state(content, self.volume.volume, str(self.state_file))
        applied, consistent = state.applied_position, state.consistent_position
        now = SeenState(
            at_ns,
            -1 if applied is None else applied,
            -1 if consistent is None else consistent,
        )
        is_same = self.states and now == replace(self.states[-1], at_ns=at_ns)
        return None if is_same else now

    def _take_samples(self, number: int, after: int, through: int) -> None:
        named = self.commands.named(after, through)
        with self.secondary.open("rb", 0) as file:
            for block in self._random.sample(named, min(_SAMPLES, len(named))):
                held = os.pread(file.fileno(), BLOCK_BYTES, block * BLOCK_BYTES)
                self.samples.append(Sample(through, block, held == contents(number, block)))
