"""Replays a recording of block I/O through a host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
_PIECE_BYTES: Final = 4 << 20
"""Larger requests are written in pieces: bounds the contents in memory, whatever a trace asks for."""


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """How far it is, earlier runs included."""

    requests: int
    writes: int
    bytes_written: int


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """writes, bytes_written: of the whole trace, earlier runs included. extents, commands, last_positions (by volume): what
    this session published. finished: False where it was stopped before the end of the trace.
    """

    writes: int
    bytes_written: int
    extents: int
    commands: int
    last_positions: Mapping[str, int]
    finished: bool


class Replay:
    """One trace, from its checkpoint to its end.

    The n-th write of the trace, from 1, has content version n. All requests after the checkpoint are done again, in the
    same order and with the same contents, so the volumes end as those of a replay that nobody interrupted.

    trace: what tells the trace from others. requests: all of it, from the beginning. volumes: open, by name. folder: where
    the checkpoint is kept, the host's own. speed: None as fast as it can; 1.0 as recorded, 2.0 twice as fast.
    stop: asked after each request.
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
        speed: float | None = None,
        checkpoint_requests: int = CHECKPOINT_REQUESTS,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Reads the checkpoint: StateDamaged or BadUse where it can't be used."""
        self._host: Final = host
        self._requests: Final = requests
        self._volumes: Final = volumes
        self._folder: Final = folder
        self._clock: Final = clock
        self._speed: Final = speed
        self._checkpoint_requests: Final = checkpoint_requests
        self._stop: Final = stop
        self._saved = load_checkpoint(folder, CHECKPOINT_NAME, trace)
        self._now: Checkpoint = self._saved
        self._dirtied: Final[set[str]] = set()
        self._ticked_s = self._progressed_s = float("-inf")
        self._began: tuple[float, int] | None = None

    def run(self, progress: Callable[[ReplayProgress], None] = lambda _: None) -> ReplayResult:
        """Replays to the end, or until stop() says so; what was written is acknowledged when it returns.

        The volumes stay open. Errors: those of TrackedVolume and of the requests' iterator; BadUse for a request to a
        volume that isn't open.
        """
        index, writes, written = (
            self._saved.next_request,
            self._saved.writes,
            self._saved.bytes_written,
        )
        stopped = False
        for request in islice(self._requests, index, None):
            self._keep_pace(request)
            if request.kind is RequestKind.WRITE:
                writes += 1
                written += request.length
            self._perform(request, writes)
            index += 1
            self._now = replace(
                self._saved, next_request=index, writes=writes, bytes_written=written
            )
            if index - self._saved.next_request >= self._checkpoint_requests:
                self._save()
            self._tick(progress)
            if stopped := self._stop():
                break
        self._save()
        self._host.drain()
        progress(ReplayProgress(index, writes, written))
        host = self._host
        return ReplayResult(
            writes, written, host.extents, host.commands, dict(host.last_positions), not stopped
        )

    def _perform(self, request: TracedRequest, version: int) -> None:
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
                    length = min(_PIECE_BYTES, request.end - offset)
                    volume.pwrite(fill(request.volume, offset, length, version), offset)
            case RequestKind.ZERO:
                volume.zero(request.length, request.offset)
            case RequestKind.DISCARD:
                volume.trim(request.length, request.offset)
            case RequestKind.FLUSH:
                volume.flush()

    def _save(self) -> None:
        """The checkpoint never runs ahead of the data: the volumes are flushed first."""
        if self._now == self._saved:
            return
        for name in self._dirtied:
            self._volumes[name].flush()
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
                ReplayProgress(self._now.next_request, self._now.writes, self._now.bytes_written)
            )

    def _keep_pace(self, request: TracedRequest) -> None:
        """Waits until it is the request's turn. A time that goes back waits for nothing: the order is the file's."""
        if self._speed is None:
            return
        now_s = self._clock.monotonic_s()
        if self._began is None:
            self._began = now_s, request.time_us
        began_s, began_us = self._began
        turn_s = began_s + (request.time_us - began_us) / 1e6 / self._speed
        while now_s < turn_s and not self._stop():
            self._host.pause(min(turn_s - now_s, TICK_S * 10))
            now_s = self._clock.monotonic_s()
