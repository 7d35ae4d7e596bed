"""What each route of the server does. All are read-only, and all are for the page itself.

| route                          | answer                                             |
|--------------------------------|----------------------------------------------------|
| /, /page/FILE                  | the page                                           |
| /v1/events                     | what changes (event_stream.py)                     |
| /v1/volumes/VOLUME/lag         | the lag of each secondary over the last hour, day  |
| /v1/volumes/VOLUME/heat        | writes by range and time                           |
| /v1/volumes/VOLUME/changed     | a page of the extents that changed                 |
| /v1/volumes/VOLUME/download    | all of them, as a file in a format of `changed`    |
| /metrics                       | the dashboard's metrics, for Prometheus            |
| /healthz                       | 200 while the page is up to date, 503 otherwise    |

The objects may change with every release. Programs ask the node (docs/http.md), or `mirrorlog
--json status`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, Final

from aiohttp import web

from mirrorlog.adapters.http.guard import HttpGuard
from mirrorlog.adapters.http.listings import send_listing
from mirrorlog.adapters.http.responses import encode_json, json_response, metrics_response
from mirrorlog.adapters.metrics_page import MetricsExporter
from mirrorlog.changed.formats import content_type, join_pieces, render
from mirrorlog.consumers.dashboard.dashboard_metrics import RefusedRequests, dashboard_samples
from mirrorlog.consumers.dashboard.event_stream import (
    SLOW_CLIENT_S,
    EventStreams,
    stream_response,
)
from mirrorlog.consumers.dashboard.request_points import asked_download, asked_page, asked_range
from mirrorlog.consumers.dashboard.topic_looks import LookState
from mirrorlog.consumers.dashboard.volume_answers import VolumeAnswers, page_of
from mirrorlog.domain.volumes import check_volume_name
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.ports.clock import Clock

_STALE_S: Final = 30.0
_HEAT_SINCE: Final = "1h ago"
OPEN_PATHS: Final = ("/healthz",)
"""Probes need no token: what they are told says nothing of the volumes."""
_PAGE: Final = {
    "index.html": "text/html",
    "dashboard.css": "text/css",
    "icon.svg": "image/svg+xml",
    "theme.js": "text/javascript",
    "app.js": "text/javascript",
    "stream.js": "text/javascript",
    "format.js": "text/javascript",
    "elements.js": "text/javascript",
    "ask.js": "text/javascript",
    "map.js": "text/javascript",
    "volume.js": "text/javascript",
    "lag_chart.js": "text/javascript",
    "heat_map.js": "text/javascript",
    "changes.js": "text/javascript",
    "quarantine.js": "text/javascript",
    "parts.js": "text/javascript",
    "concerns.js": "text/javascript",
}
"""The files of the page, by name, with their media types."""
_ENDINGS: Final = {"csv": "csv", "table": "txt", "extentlist": "txt", "ranges": "txt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardParts:
    """What the routes need. lags: TopicLooks.lags(). guard: checks each request first."""

    streams: EventStreams
    state: LookState
    answers: VolumeAnswers
    lags: Callable[[str, list[str]], dict[str, Any]]
    clock: Clock
    guard: HttpGuard


def build_dashboard_app(parts: DashboardParts) -> web.Application:
    """Return the application, which doesn't listen yet."""
    routes = DashboardRoutes(parts)
    app = parts.guard.application()
    app.on_response_prepare.append(routes.refused.note)
    app.router.add_get("/", partial(routes.page_file, name="index.html"))
    for name in _PAGE:
        app.router.add_get(f"/page/{name}", partial(routes.page_file, name=name))
    for path, handler in {
        "/healthz": routes.health,
        "/metrics": routes.metrics,
        "/v1/events": routes.events,
        "/v1/volumes/{volume}/lag": routes.lag,
        "/v1/volumes/{volume}/heat": routes.heat,
        "/v1/volumes/{volume}/changed": routes.changed,
        "/v1/volumes/{volume}/download": routes.download,
    }.items():
        app.router.add_get(path, handler, allow_head=False)
    return app


class DashboardRoutes:
    """The handlers of all routes, on the event loop."""

    def __init__(self, parts: DashboardParts) -> None:
        self._parts: Final = parts
        self.refused: Final = RefusedRequests()
        samples = partial(
            dashboard_samples, parts.state, parts.streams, parts.answers, self.refused
        )
        self._exporter: Final = MetricsExporter(ExportingRole.DASHBOARD, samples)
        self._files: Final = {name: _PageFile.read(name) for name in _PAGE}

    async def page_file(self, request: web.Request, name: str) -> web.StreamResponse:
        """Answer with a file of the page. A browser asks whether it has changed."""
        page = self._files[name]
        headers = {"Cache-Control": "no-cache", "ETag": page.etag}
        if request.headers.get("If-None-Match") == page.etag:
            return web.Response(status=304, headers=headers)
        response = web.Response(
            body=page.content, content_type=_PAGE[name], charset="utf-8", headers=headers
        )
        response.enable_compression()
        return response

    async def health(self, _: web.Request) -> web.Response:
        """Answer 200 if the last look is recent, and 503 otherwise."""
        state, now_us = self._parts.state, self._parts.clock.now_us()
        is_recent = state.at_us is not None and now_us - state.at_us < _STALE_S * 1e6
        status = "ok" if is_recent else "no look at the topics succeeds"
        fields = {"schema_version": 1, "status": status, "pages": self._parts.streams.open}
        return _json(fields, 200 if is_recent else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer with the dashboard's metrics, in the format that Prometheus asks for."""
        return metrics_response(self._exporter, request)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Answer with the stream of changes.

        A browser that connects again by itself says in a header what it saw last. The page, when
        it opens a stream anew, says it in `after`.
        """
        last_id = request.headers.get("Last-Event-ID") or request.query.get("after")
        return await stream_response(request, self._parts.streams, last_id)

    async def lag(self, request: web.Request) -> web.Response:
        """Answer with the lag of each secondary of a volume at the sites `site`."""
        sites = request.query.getall("site", [])[:64]
        return _json({"sites": self._parts.lags(_volume_of(request), sites)})

    async def heat(self, request: web.Request) -> web.Response:
        """Answer with the writes of a volume by range and time."""
        asked = asked_range(request.query, self._parts.clock.now_us(), _HEAT_SINCE)
        return _json(await self._parts.answers.heat(_volume_of(request), asked))

    async def changed(self, request: web.Request) -> web.Response:
        """Answer with a page of the extents that changed."""
        page = asked_page(request.query, self._parts.clock.now_us())
        answers = self._parts.answers
        blocks = await answers.changed(_volume_of(request), page.asked)
        return _json(await answers.run(partial(page_of, blocks, page)))

    async def download(self, request: web.Request) -> web.StreamResponse:
        """Answer with all extents that changed, as a file."""
        download = asked_download(request.query, self._parts.clock.now_us())
        answers, volume = self._parts.answers, _volume_of(request)
        blocks = await answers.changed(volume, download.asked)
        ending = _ENDINGS.get(download.format, "json")
        name = f"{volume}-{blocks.since}-{blocks.until}-{download.format}.{ending}"
        response = web.StreamResponse(
            headers={
                "Content-Type": content_type(download.format),
                "Content-Disposition": f'attachment; filename="{name}"',
            }
        )
        chunks = join_pieces(render(blocks, download.format))
        next_chunk = partial(answers.run, partial(next, chunks, ""))
        return await send_listing(request, response, next_chunk, slow_client_s=SLOW_CLIENT_S)


def _json(fields: Mapping[str, Any], status: int = 200) -> web.Response:
    response = json_response(encode_json(fields), status=status)
    response.enable_compression()
    return response


def _volume_of(request: web.Request) -> str:
    return check_volume_name(request.match_info["volume"])


@dataclass(frozen=True, slots=True)
class _PageFile:
    """A file of the page. etag: of its content."""

    content: bytes
    etag: str

    @classmethod
    def read(cls, name: str) -> _PageFile:
        content = files("mirrorlog.consumers.dashboard").joinpath("page", name).read_bytes()
        return cls(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
