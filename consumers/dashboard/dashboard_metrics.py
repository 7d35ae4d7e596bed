"""The metrics of the dashboard itself: its looks, its pages and its questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from mirrorlog.consumers.dashboard.event_stream import EventStreams
from mirrorlog.consumers.dashboard.topic_looks import LookState
from mirrorlog.consumers.dashboard.volume_answers import VolumeAnswers
from mirrorlog.metric_samples import MetricSample
from mirrorlog.metrics import (
    DASHBOARD_LOOK_DURATION,
    DASHBOARD_LOOK_FAILURES,
    DASHBOARD_LOOKED_AT,
    DASHBOARD_PAGES,
    DASHBOARD_QUESTIONS,
    DASHBOARD_REFUSED,
)

_REFUSALS: Final = frozenset({401, 403, 408, 413, 421, 503})


@dataclass(slots=True)
class RefusedRequests:
    """Counts the requests that were refused, on the event loop."""

    count: int = 0

    async def note(self, request: web.Request, response: web.StreamResponse) -> None:
        """Count the answer, if it is a refusal (aiohttp on_response_prepare)."""
        if response.status in _REFUSALS and request.path != "/healthz":
            self.count += 1


def dashboard_samples(
    state: LookState, streams: EventStreams, answers: VolumeAnswers, refused: RefusedRequests
) -> Iterator[MetricSample]:
    """Yield all samples of the dashboard. Call it on the event loop."""
    yield MetricSample(DASHBOARD_LOOK_DURATION, state.durations.value())
    yield MetricSample(DASHBOARD_LOOK_FAILURES, state.failures)
    if state.at_us is not None:
        yield MetricSample(DASHBOARD_LOOKED_AT, state.at_us / 1e6)
    yield MetricSample(DASHBOARD_PAGES, streams.open)
    yield MetricSample(DASHBOARD_QUESTIONS, answers.running)
    yield MetricSample(DASHBOARD_REFUSED, refused.count)
