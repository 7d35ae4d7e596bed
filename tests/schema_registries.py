"""A schema registry with Confluent's interface in a thread, as far as mirrorlog asks it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


class FakeRegistry:
    """Schemas by id, and ids by subject. status: what every request is answered with, if not 200.

    authorizations: what requests carried.
    """

    def __init__(self) -> None:
        self.schemas: dict[int, str] = {}
        self.subjects: dict[str, list[int]] = {}
        self.status = 200
        self.requests = 0
        self.authorizations: set[str | None] = set()
        self.url = ""

    def add(self, subject: str, schema: str) -> int:
        """Return the id of a schema, which is the same in all subjects, as in Confluent's."""
        known = [number for number, text in self.schemas.items() if text == schema]
        number = known[0] if known else len(self.schemas) + 1
        self.schemas[number] = schema
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number


@contextmanager
def fake_registry() -> Iterator[FakeRegistry]:
    """Serve a registry on a free port of the loopback."""
    registry, lock = FakeRegistry(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = int(self.path.rpartition("/")[2])
            schema = registry.schemas.get(number)
            self._answer(404 if schema is None else 200, {"schema": schema})

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            schema = json.loads(self.rfile.read(length))["schema"]
            with lock:
                number = registry.add(unquote(self.path.split("/")[2]), schema)
            self._answer(200, {"id": number})

        def _answer(self, status: int, fields: dict[str, Any]) -> None:
            registry.requests += 1
            registry.authorizations.add(self.headers.get("Authorization"))
            body = json.dumps(fields).encode()
            self.send_response(status if registry.status == 200 else registry.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
