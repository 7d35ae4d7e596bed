"""Open a volume by name: a tracked volume together with the host that it needs.

This is for programs that write to a volume themselves (docs/host-api.md).
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack
from threading import Event, Lock, Thread
from typing import Final, Unpack

from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.errors import DeviceFailed, MirrorlogError, in_words
from mirrorlog.producers.forks.fork_plans import fork_plans
from mirrorlog.producers.open_options import OpenOptions
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.wiring import HostWiring, default_host_name, open_request
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.settings import Settings, load_settings

log = logging.getLogger("mirrorlog.host")
TICK_S: Final = 0.01
_PUBLISHING: Final = "publishing"
IDLE_TIMEOUT_S: Final = 5.0
"""How long close() waits for the writes in flight after an interruption."""


def open_volume(
    name: str, settings: Settings | None = None, **options: Unpack[OpenOptions]
) -> TrackedVolume:
    """Open the volume `name` for writing. Closing it ends its host and the host's thread, too.

    settings: read from the environment by default.
    Errors: UnknownVolume; BadUse if another host has it open; those of Host and of
    Host.open_all().
    """
    settings = load_settings() if settings is None else settings
    return _VolumeSession(name, settings, options).volume


class _VolumeSession:
    """One host for one volume, and the thread that calls the host's tick()."""

    def __init__(self, name: str, settings: Settings, options: OpenOptions) -> None:
        """Open the volume, in this order; close() undoes the steps in the reverse order.

        1. Read the volume's description.
        2. Open the primary, and lock it against other writers on this machine.
        3. The host publishes what its last session left unpublished, and opens the volume.
        4. Start the thread: batches and heartbeats leave when they are due.
        """
        self._report: Final = options.get("report", log.warning)
        self._closing: Final = Lock()
        self._stop: Final = Event()
        self._ticker: Final = Thread(target=self._tick, name=f"mirrorlog-{name}", daemon=True)
        with ExitStack() as stack:
            wiring = HostWiring(options.get("host", default_host_name(name)), settings, stack)
            volumes = wiring.read_catalog()  # 1
            volume = volumes.volume_named(name)
            device = wiring.open_primary(
                volume, address=options.get("primary"), direct=options.get("direct", False)
            )  # 2
            forks = fork_plans(
                options.get("forks", ()), options.get("fork_mode", "async"), [volume]
            )
            self._host: Final[Host] = wiring.start_host(
                dict(volumes), forks=forks, report=self._report
            )
            stack.push(self._end)
            wiring.serve_metrics(self._host, lambda url: self._report(f"metrics at {url}"))
            request = open_request(
                volume,
                device,
                take_over=options.get("take_over", ()),
                on_close=self.close,
                forks=forks.get(name),
            )
            self.volume: Final = self._host.open_all([request])[name]  # 3
            self._ticker.start()  # 4
            self._stack: Final = stack.pop_all()

    def close(self) -> None:
        """End the host cleanly. Closing twice is harmless.

        An interruption (Ctrl-C) may have stopped a write between two of its steps. That write stays
        in flight for ever, and a clean end would wait for it. Then nothing is closed, and the state
        folder stays locked until the process ends. As after a crash, the next session publishes
        the regions that were hot.
        """
        with self._closing:
            if self._stop.is_set():
                return
            if isinstance(sys.exception(), KeyboardInterrupt) and not self._is_idle_in_time():
                self._report(
                    "A write was interrupted. What may be unpublished is published as dirty when "
                    "the volume is opened again."
                )
                self._stop.set()
                return
            self._stack.close()

    def _end(self, *error: object) -> None:
        """End the session: cleanly, or as a crash does if `error` (of __exit__) names one."""
        self._stop.set()
        if self._ticker.is_alive():
            self._ticker.join()
        if error[0] is not None:
            self._host.abandon()
        else:
            self._host.close()

    def _is_idle_in_time(self) -> bool:
        """Close the volume to new writes; return whether all writes end within IDLE_TIMEOUT_S."""
        tracker, opened = self.volume.tracker_and_volume
        waiting = Thread(target=tracker.wait_until_idle, args=(opened,), daemon=True)
        waiting.start()
        waiting.join(IDLE_TIMEOUT_S)
        return not waiting.is_alive()

    def _tick(self) -> None:
        """Call the host's tick() until the session ends.

        An error of Kafka or of the activity log is reported here, not each time; the writes that it
        concerns raise it, too. Any other error fails the volume.
        """
        reports = RetryReports()
        while not self._stop.wait(TICK_S):
            now_s = time.monotonic()
            try:
                self._host.tick(now_s)
                if text := reports.worked(_PUBLISHING, now_s=now_s):
                    self._report(f"{_PUBLISHING} {text}")
            except MirrorlogError as error:
                if text := reports.failed(_PUBLISHING, str(error), now_s=now_s):
                    self._report(text)
            except Exception as error:
                tracker, opened = self.volume.tracker_and_volume
                failure = DeviceFailed(
                    f"the host's own thread failed: {in_words(error)}",
                    where=f"volume {opened.name}",
                )
                tracker.fail(opened, failure)
                raise
