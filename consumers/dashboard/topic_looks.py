"""One look at the topics after another: each brings the items and the lags up to date.

A look takes longer the more secondaries there are, so the time between two looks grows with it
(rest_s).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Any, Final

from mirrorlog.consumers.dashboard.lag_history import FINE, LagHistory
from mirrorlog.consumers.dashboard.live_items import LiveItems
from mirrorlog.consumers.dashboard.page_items import PageItems, page_items
from mirrorlog.consumers.dashboard.refused_events import RefusedEvents
from mirrorlog.errors import MirrorlogError, name_in_words
from mirrorlog.metric_samples import DurationHistogram
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.present_state import PresentStateReader
from mirrorlog.reading.read_through import ReadPatience
from mirrorlog.status.health import Thresholds
from mirrorlog.status.overview import QuarantineNews, evaluate
from mirrorlog.topics import Topics

log = logging.getLogger("mirrorlog.dashboard")

LOOK_S: Final = 1.0
"""The shortest time between two looks."""
_REST: Final = 2.0
"""A rest is at least so many times as long as the look before it: looks take a third of a core."""
_PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LookPorts:
    """The ports of looks. mirror_of: the cluster whose log is mirrored here; empty if none is."""

    open_reader: Callable[[], TopicReader]
    admin: TopicAdmin
    topics: Topics
    clock: Clock
    mirror_of: str = ""


class TopicLooks:
    """Looks at the topics. One thread calls look() and close(); any thread calls lags()."""

    def __init__(self, ports: LookPorts, items: LiveItems) -> None:
        self._ports, self._items = ports, items
        patience = ReadPatience(ports.clock, _PATIENCE_S, "reading the quarantine")
        self._present: Final = PresentStateReader(
            ports.open_reader, ports.admin, ports.topics, ports.clock, _PATIENCE_S
        )
        self._refused: Final = RefusedEvents(
            ports.open_reader, ports.admin, ports.topics.quarantine, patience
        )
        self._history: Final = LagHistory()
        self._sampling: Final = Lock()
        self._sampled_step = -1
        self._born_us: dict[str, int] = {}

    def look(self) -> int:
        """Bring the items up to date. Return the time as of which they are: microseconds.

        Raise KafkaFailed if the broker doesn't answer.
        """
        ports = self._ports
        state = self._present.refresh()
        items: PageItems = {}
        news = QuarantineNews(count=0)
        if ports.mirror_of:
            state.reports_error = (
                f"hosts and workers report to cluster {ports.mirror_of}, the mirror's source"
            )
        else:
            self._refused.refresh()
            news, items = self._refused.news, self._refused.items()
        now_us = ports.clock.now_us()
        overview = evaluate(
            state,
            news,
            partition_count=ports.admin.partitions(ports.topics.changelog),
            now_us=now_us,
            thresholds=Thresholds(),
        )
        items |= page_items(state, overview)
        self._items.replace(items)
        step = now_us // 1_000_000 // FINE.step_s
        if step != self._sampled_step:
            self._sampled_step = step
            lags = {(row.volume, row.site): row.lag for row in overview.replicas if row.site}
            born_us = {name: volume.born_at_us for name, volume in state.volumes.items()}
            known = self._born_us
            new = {name for name, at_us in born_us.items() if known.get(name, at_us) != at_us}
            self._born_us = born_us
            with self._sampling:
                self._history.add(lags, now_us, new)
        return now_us

    def lags(self, volume: str, sites: list[str]) -> dict[str, Any]:
        """Return the lags of a volume at the sites, by site (LagHistory.of)."""
        with self._sampling:
            return {site: self._history.of((volume, site)) for site in sites}

    def close(self) -> None:
        """Close the readers."""
        self._present.close()
        self._refused.close()


@dataclass(slots=True)
class LookState:
    """How the looks go. at_us: of the last one that succeeded. error: why the last one failed.

    durations: of those that succeeded. failures: the number of the others.
    """

    at_us: int | None = None
    error: str | None = None
    durations: DurationHistogram = field(default_factory=DurationHistogram)
    failures: int = 0


class LookThread:
    """Looks again and again, in a thread. A look that fails is repeated.

    on_look: called in the thread after each look, whether it succeeded or not.
    """

    def __init__(self, looks: TopicLooks, clock: Clock, on_look: Callable[[], None]) -> None:
        self._looks, self._clock, self._on_look = looks, clock, on_look
        self._stop: Final = Event()
        self.state: Final = LookState()
        self._thread: Final = Thread(target=self._run, name="mirrorlog-looks", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """Stop. A look that waits for Kafka for longer than `within_s` ends with the process."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(within_s)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                began_s = self._clock.monotonic_s()
                self._look_once()
                self._on_look()
                self._stop.wait(rest_s(self._clock.monotonic_s() - began_s))
        finally:
            self._looks.close()

    def _look_once(self) -> None:
        state = self.state
        began_s = self._clock.monotonic_s()
        try:
            state.at_us = self._looks.look()
            state.durations.observe(self._clock.monotonic_s() - began_s)
            if state.error is not None:
                log.warning("Kafka answers again")
            state.error = None
        except MirrorlogError as error:
            self._note(str(error))
        except Exception as unknown:
            if state.error is None:
                log.exception("a look at the topics failed")
            self._note(f"an error that the dashboard doesn't know: {name_in_words(type(unknown))}")

    def _note(self, error: str) -> None:
        if self.state.error is None:
            log.warning("the topics can't be read, the page shows what was: %s", error)
        self.state.error = error
        self.state.failures += 1


def rest_s(look_s: float) -> float:
    """Return the time to rest after a look that took `look_s`."""
    return max(LOOK_S - look_s, _REST * look_s)
