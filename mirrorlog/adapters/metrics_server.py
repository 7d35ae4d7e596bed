"""A small HTTP server for metrics alone, in a thread of its own.

Hosts and sites use it. The node serves its metrics beside its other answers (streams/web/). The
server never disturbs its role: at most MAX_CLIENTS clients are served at a time, further ones are
cut off, and each has DEADLINE_S for its whole request.
"""

from __future__ import annotations

import gzip
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from threading import BoundedSemaphore, Thread, Timer
from typing import TYPE_CHECKING, Any, Final

from mirrorlog.adapters.http.access import HttpAccess
from mirrorlog.adapters.listening import OFF, ListeningWords, listen_at, url_of
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.settings import Settings

if TYPE_CHECKING:
    from mirrorlog.adapters.metrics_page import CollectSamples, MetricsExporter

PATH: Final = "/metrics"
MAX_CLIENTS: Final = 4
DEADLINE_S: Final = 30.0
_STOP_S: Final = 0.1
_GZIP_LEVEL: Final = 3
_WORDS: Final = ListeningWords(
    who="the metrics", option="--metrics", guards="metrics_token or metrics_token_file"
)


class MetricsServer:
    """Serves the samples of `collect` at /metrics until it is closed.

    collect: called in a thread of the server, for each request. url: where Prometheus finds them.
    """

    def __init__(
        self,
        role: ExportingRole,
        collect: CollectSamples,
        listening: socket.socket,
        access: HttpAccess,
    ) -> None:
        from mirrorlog.adapters.metrics_page import MetricsExporter

        self.url: Final = f"{url_of(listening)}{PATH}"
        self._server: Final = _MetricsTcpServer(listening, MetricsExporter(role, collect), access)
        self._thread: Final = Thread(
            target=self._server.serve_forever,
            args=(_STOP_S,),
            name="mirrorlog-metrics",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """Stop to listen. Answers under way may be cut off."""
        self._server.shutdown()
        self._server.server_close()


def open_metrics_server(
    address: str, token: str, role: ExportingRole, collect: CollectSamples
) -> MetricsServer | None:
    """Start a server at `address`, HOST:PORT; return None if that is "off".

    Raise BadUse as listen_at() does.
    """
    if address == OFF:
        return None
    access = HttpAccess(token)
    listening = listen_at(address, _WORDS, is_guarded=access.is_guarded)
    return MetricsServer(role, collect, listening, access)


@contextmanager
def serving_metrics(
    settings: Settings,
    role: ExportingRole,
    collect: CollectSamples,
    on_start: Callable[[str], None],
) -> Iterator[None]:
    """Serve metrics as the settings say, for as long as the context lasts.

    on_start: called with the address of the metrics, if they are served.
    """
    server = open_metrics_server(settings.metrics, settings.metrics_token, role, collect)
    if server is None:
        yield
        return
    with closing(server):
        on_start(server.url)
        yield


class _MetricsTcpServer(ThreadingMixIn, TCPServer):
    """The threads of the server."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, listening: socket.socket, exporter: MetricsExporter, access: HttpAccess
    ) -> None:
        super().__init__(listening.getsockname(), _MetricsHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.exporter, self.access = exporter, access
        self._free: Final = BoundedSemaphore(MAX_CLIENTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, or cut it off if there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, until its time is over."""
        timer = Timer(DEADLINE_S, _cut_off, (request,))
        timer.daemon = True
        timer.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over clients that went away. Anything else is a defect, and is printed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _MetricsHandler(BaseHTTPRequestHandler):
    """One connection, with one request."""

    server: _MetricsTcpServer

    def do_GET(self) -> None:
        """Answer with the metrics."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, explain=f"The metrics are at {PATH}.")
            return
        if not self.server.access.admits(self.headers.get("Authorization", "")):
            self.send_error(HTTPStatus.UNAUTHORIZED, explain="Send Authorization: Bearer TOKEN.")
            return
        content_type, text = self.server.exporter.page(self.headers.get("Accept", ""))
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Cache-Control", "no-store")
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            text = gzip.compress(text, _GZIP_LEVEL)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log no request."""


def _cut_off(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
