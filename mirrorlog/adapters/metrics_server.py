"""A small HTTP server for metrics alone, in a thread of its own.

Hosts, sites and archivers use it, and import no framework for it. The node and the dashboard serve
their metrics beside their other answers. Who may ask is checked as it is there (adapters/http/).
The server never disturbs its role: at most MAX_CLIENTS clients are served at a time, further ones
are cut off, and each has DEADLINE_S for its TLS handshake and its request together.
"""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from threading import BoundedSemaphore, Thread, Timer
from typing import TYPE_CHECKING, Any, Final

from mirrorlog.adapters.http.access import HttpAccess, http_access
from mirrorlog.adapters.http.answer_headers import ANSWER_HEADERS, SERVER_NAME
from mirrorlog.adapters.http.foreign_requests import foreign_request
from mirrorlog.adapters.listening import OFF, ListeningWords, listen_at, url_of
from mirrorlog.errors import BadUse, MirrorlogError, NotAllowed
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.settings import Settings

if TYPE_CHECKING:
    from mirrorlog.adapters.metrics_page import CollectSamples, MetricsExporter

PATH: Final = "/metrics"
MAX_CLIENTS: Final = 4
DEADLINE_S: Final = 30.0
_STOP_S: Final = 0.1
_GZIP_LEVEL: Final = 3
_WORDS: Final = ListeningWords(who="the metrics", option="--metrics", token="metrics_token")
_NO_TOKEN: Final = NotAllowed(
    "the request doesn't carry the token",
    next="Send Authorization: Bearer TOKEN, with metrics_token.",
)
_NO_SUCH_PATH: Final = BadUse("nothing else is served here", next=f"The metrics are at {PATH}.")


class MetricsServer:
    """Serves the samples of `collect` at /metrics until it is closed.

    collect: called in a thread of the server, for each request. access: who may ask. url: where
    Prometheus finds them. Raise BadUse if a file of `access` can't be used.
    """

    def __init__(
        self,
        role: ExportingRole,
        collect: CollectSamples,
        listening: socket.socket,
        access: HttpAccess,
    ) -> None:
        from mirrorlog.adapters.metrics_page import MetricsExporter

        self.url: Final = f"{url_of(listening, access.scheme)}{PATH}"
        context = access.server_context()
        exporter = MetricsExporter(role, collect)
        self._server: Final = _MetricsTcpServer(listening, exporter, access, context)
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
    address: str, access: HttpAccess, role: ExportingRole, collect: CollectSamples
) -> MetricsServer | None:
    """Start a server at `address`, HOST:PORT; return None if that is "off".

    Raise BadUse as listen_at() and HttpAccess.server_context() do.
    """
    if address == OFF:
        return None
    listening = listen_at(address, _WORDS, is_guarded=access.is_guarded)
    try:
        return MetricsServer(role, collect, listening, access)
    except BaseException:
        listening.close()
        raise


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
    access = http_access(settings, settings.metrics_token)
    server = open_metrics_server(settings.metrics, access, role, collect)
    if server is None:
        yield
        return
    with closing(server):
        on_start(server.url)
        yield


class _MetricsTcpServer(ThreadingMixIn, TCPServer):
    """The threads of the server. context: for TLS; None: without."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listening: socket.socket,
        exporter: MetricsExporter,
        access: HttpAccess,
        context: ssl.SSLContext | None,
    ) -> None:
        super().__init__(listening.getsockname(), _MetricsHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.exporter, self.access, self._context = exporter, access, context
        self._free: Final = BoundedSemaphore(MAX_CLIENTS)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. Its thread makes the handshake: no client holds up the others."""
        connection, address = super().get_request()
        if self._context is not None:
            connection = self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

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

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Make the handshake, if there is one, and answer the request."""
        if isinstance(request, ssl.SSLSocket):
            request.do_handshake()
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over clients that went away. Anything else is a defect, and is printed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _MetricsHandler(BaseHTTPRequestHandler):
    """One connection, with one request."""

    server: _MetricsTcpServer
    server_version = SERVER_NAME
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the metrics, if the request passes the checks of http/guard.py."""
        own_address = str(self.server.server_address[0])
        if foreign := foreign_request(self.command, self.headers.get, own_address):
            self._refuse(foreign.status, foreign.error)
        elif not self.server.access.admits(self.headers.get("Authorization", "")):
            self._refuse(HTTPStatus.UNAUTHORIZED, _NO_TOKEN)
        elif self.path.partition("?")[0] != PATH:
            self._refuse(HTTPStatus.NOT_FOUND, _NO_SUCH_PATH)
        else:
            self._send_page()

    def _send_page(self) -> None:
        content_type, text = self.server.exporter.page(self.headers.get("Accept", ""))
        headers = {"Content-Type": content_type}
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            text = gzip.compress(text, _GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        self._send(HTTPStatus.OK, headers, text)

    def _refuse(self, status: int, error: MirrorlogError) -> None:
        """Answer with the object that the command line prints for an error under --json."""
        headers = {"Content-Type": "application/json"}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        self._send(status, headers, json.dumps(error.as_message()).encode() + b"\n")

    def _send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {**ANSWER_HEADERS, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log no request."""


def _cut_off(request: socket.socket) -> None:
    """End a connection under its thread. An SSLSocket's own shutdown() would let what the thread
    still writes pass unencrypted.
    """
    with suppress(OSError):
        socket.socket.shutdown(request, socket.SHUT_RDWR)
