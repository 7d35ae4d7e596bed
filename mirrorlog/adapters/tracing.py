"""The switch of traces. OpenTelemetry is imported only if its environment asks for traces.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from mirrorlog.ports.tracing import Tracer
from mirrorlog.settings import inherited_environment

log = logging.getLogger("mirrorlog.traces")
_SWITCHES: Final = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)


def is_tracing_on(environment: Mapping[str, str]) -> bool:
    """Return whether this environment asks for traces."""
    return (
        environment.get("OTEL_SDK_DISABLED", "").lower() != "true"
        and environment.get("OTEL_TRACES_EXPORTER", "") != "none"
        and any(environment.get(name) for name in _SWITCHES)
    )


def open_tracer(role: str) -> Tracer | None:
    """Return a tracer for a role (host, node, site); None if traces aren't switched on.

    If they are, and what they need isn't installed, a warning says what to install, and nothing is
    traced. Spans leave in the background, and the last ones when the process ends in order.
    """
    environment = inherited_environment()
    if not is_tracing_on(environment):
        return None
    try:
        from mirrorlog.adapters.otel import open_otel_tracer

        return open_otel_tracer(role, environment)
    except ImportError as error:
        log.warning(
            "the environment asks for traces, and nothing is traced: %s. Run "
            "pip install 'mirrorlog[otel]', or set OTEL_TRACES_EXPORTER=none",
            error,
        )
        return None
