"""JSON objects and metrics as answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from mirrorlog.adapters.metrics_page import MetricsExporter

_RETRY_AFTER_S: Final = 1


def encode_json(fields: Mapping[str, Any]) -> bytes:
    """Return the object as one line of JSON."""
    return json.dumps(fields, allow_nan=False).encode() + b"\n"


def metrics_response(exporter: MetricsExporter, request: web.Request) -> web.Response:
    """Return the response with metrics, in the format that Prometheus asks for."""
    page = exporter.page(request.headers.get("Accept", ""))
    response = web.Response(body=page.text, headers={"Content-Type": page.content_type})
    response.enable_compression()
    return response


def json_response(
    body: bytes, headers: Mapping[str, str] | None = None, status: int = 200
) -> web.Response:
    """Return the response for an encoded object; with Retry-After if the status is 503."""
    retry = {"Retry-After": str(_RETRY_AFTER_S)} if status == 503 else {}
    return web.Response(
        body=body,
        status=status,
        content_type="application/json",
        headers={**retry, **(headers or {})},
    )
