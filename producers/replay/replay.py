"""Replays a recording of block I/O through a host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.folders import StateFolder
from mirrorlog.producers.replay.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mirrorlog.producers.replay.contents import fill
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.traces import RequestKind, TracedRequest
from mirrorlog.producers.writes.tracked_volume import TrackedVolume

CHECKPOINT_NAME: Final = "replay.json"
CHECKPOINT_REQUESTS: Final = 16_384
TICK_S: Final = 0.005
PROGRESS_S: Final = 0.1
_EXPECTED_REQUESTS: Final = 128
"""The host is told of this many requests together, which saves waits for its activity log."""
_PIECE_BYTES: Final = 4 << 20
"""Larger writes are split, which bounds the memory for contents whatever a trace asks for."""


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """The progress of a replay, including earlier runs."""

    requests: int
    writes: int
    bytes_written: int


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of a replay.

    writes, bytes_written: of the whole trace, including earlier runs.
    extents, commands: what this session published.
    last_positions: by volume, the position of its last acknowledged command.
    finished: False if the replay was stopped before the end of the trace.
    """

    writes: int
    bytes_written: int
    extents: int
    commands: int
    last_positions: Mapping[str, int]
    finished: bool


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of a replay, and the interval of its checkpoints.

    speed: 1.0 as recorded, 2.0 twice as fast; None as fast as possible.
    checkpoint_requests: the number of requests between two checkpoints.
    """

    speed: float | None = None
    checkpoint_requests: int = CHECKPOINT_REQUESTS


class Replay:
    """Replays one trace from its checkpoint to its end.

    The n-th write of the trace, counted from 1, writes version n of its contents (contents.py). All
    requests after the checkpoint are repeated in the same order and with the same contents. So the
    volumes end as those of a replay that was never interrupted.
    """

    def __init__(
        self,
        host: Host,
        trace: str,
        requests: Iterable[TracedRequest],
        volumes: Mapping[str, TrackedVolume],
        folder: StateFolder,
        clock: Clock,
        *,
        pace: Pace = Pace(),
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Read the checkpoint. StateDamaged or BadUse if it can't be used.

        trace: tells the trace from others.
        requests: the whole trace, from its beginning.
        volumes: the open volumes, by name.
        folder: the host's state folder, which keeps the checkpoint.
        stop: called after each request; if it returns True the replay stops.
        """
        self._host: Final = host
        self._requests: Final = requests
        self._volumes: Final = volumes
        self._folder: Final = folder
        self._clock: Final = clock
        self._pace: Final = pace
        self._stop: Final = stop
        self._saved = load_checkpoint(folder, CHECKPOINT_NAME, trace)
        self._now: Checkpoint = self._saved
        self._dirtied: Final[set[str]] = set()
        self._ticked_s = self._progressed_s = float("-inf")
        self._began: tuple[float, int] | None = None

    def run(self, progress: Callable[[ReplayProgress], None] = lambda _: None) -> ReplayResult:
        """Replay to the end of the trace, or until stop() returns True.

        All writes are acknowledged when it returns. The volumes stay open.

        progress: called every PROGRESS_S seconds, and at the end.
        Errors: those of TrackedVolume and of the iterator of requests; BadUse for a request to a
        volume that isn't open.
        """
        index, writes, written = (
            self._saved.next_request,
            self._saved.writes,
            self._saved.bytes_written,
        )
        stopped = False
        for request in self._expected(islice(self._requests, index, None)):
            self._keep_pace(request)
            if request.kind is RequestKind.WRITE:
                writes += 1
                written += request.length
            self._perform(request, writes)
            index += 1
            self._now = replace(
                self._saved, next_request=index, writes=writes, bytes_written=written
            )
            if index - self._saved.next_request >= self._pace.checkpoint_requests:
                self._save()
            self._tick(progress)
            if stopped := self._stop():
                break
        self._save()
        self._host.drain()
        progress(ReplayProgress(requests=index, writes=writes, bytes_written=written))
        host = self._host
        return ReplayResult(
            writes=writes,
            bytes_written=written,
            extents=host.extents,
            commands=host.commands,
            last_positions=dict(host.last_positions),
            finished=not stopped,
        )

    def _expected(self, requests: Iterator[TracedRequest]) -> Iterator[TracedRequest]:
        """Yield the requests. If there is no pace, tell the host of some of them beforehand."""
        if self._pace.speed is not None:
            yield from requests
            return
        while coming := list(islice(requests, _EXPECTED_REQUESTS)):
            self._host.expect_writes(
                (request.volume, request.offset, request.length)
                for request in coming
                if request.kind is not RequestKind.FLUSH and request.volume in self._volumes
            )
            yield from coming

    def _perform(self, request: TracedRequest, version: int) -> None:
        """Do the request on its volume. version: of the contents, if the request is a write."""
        volume = self._volumes.get(request.volume)
        if volume is None:
            raise BadUse(
                f"the trace has a request for volume {request.volume}, which isn't open",
                where=f"request {self._now.next_request}",
                next="Create and open every volume of the trace.",
            )
        self._dirtied.add(request.volume)
        match request.kind:
            case RequestKind.WRITE:
                for offset in range(request.offset, request.end, _PIECE_BYTES):
                    data = fill(
                        request.volume,
                        offset=offset,
                        length=min(_PIECE_BYTES, request.end - offset),
                        version=version,
                    )
                    volume.pwrite(data, offset)
            case RequestKind.ZERO:
                volume.zero(request.length, request.offset)
            case RequestKind.DISCARD:
                volume.trim(request.length, request.offset)
            case RequestKind.FLUSH:
                volume.flush()

    def _save(self) -> None:
        """Flush the volumes, then save the checkpoint: it must never be ahead of the data."""
        if self._now == self._saved:
            return
        self._host.flush_all([self._volumes[name] for name in self._dirtied])
        self._dirtied.clear()
        save_checkpoint(self._folder, CHECKPOINT_NAME, self._now)
        self._saved = self._now

    def _tick(self, progress: Callable[[ReplayProgress], None]) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._ticked_s < TICK_S:
            return
        self._ticked_s = now_s
        self._host.tick(now_s)
        if now_s - self._progressed_s >= PROGRESS_S:
            self._progressed_s = now_s
            progress(
                ReplayProgress(
                    requests=self._now.next_request,
                    writes=self._now.writes,
                    bytes_written=self._now.bytes_written,
                )
            )

    def _keep_pace(self, request: TracedRequest) -> None:
        """Wait until the request is due.

        A time that goes back is due at once: the order of the file decides.
        """
        if self._pace.speed is None:
            return
        now_s = self._clock.monotonic_s()
        if self._began is None:
            self._began = now_s, request.time_us
        began_s, began_us = self._began
        due_s = began_s + (request.time_us - began_us) / 1e6 / self._pace.speed
        while now_s < due_s and not self._stop():
            self._host.pause(min(due_s - now_s, TICK_S * 10))
            now_s = self._clock.monotonic_s()
