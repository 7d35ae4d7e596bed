"""Prometheus of docker-compose.yml's profile `monitoring` reads every service, and all rules."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest
from composing import Compose
from deadlines import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.containers,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
]

TARGETS: Final = {
    *("node-1:8080", "node-2:8080"),
    *("host-1:9101", "host-2:9101", "site-a:9101", "site-b:9101", "dashboard:8090"),
}
# Where no registry has Prometheus' own image, Debian's package stands in for it.
PROMETHEUS: Final = """
FROM {python_image}
RUN apt-get -qq update \\
 && apt-get -qq install -y --no-install-recommends prometheus wget > /dev/null \\
 && rm -rf /var/lib/apt/lists/* && install -d -o 65534 /prometheus
WORKDIR /prometheus
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
"""


@pytest.fixture
def prometheus_image(
    docker_engine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """Let the file's service have an image with Debian's Prometheus."""
    image = f"mirrorlog-test-prometheus-{uuid.uuid4().hex[:8]}"
    python_image = os.environ.get("PYTHON_IMAGE", "python:3.11-slim-bookworm")
    (tmp_path / "Dockerfile").write_text(PROMETHEUS.format(python_image=python_image))
    subprocess.run(["docker", "build", "-q", "-t", image, str(tmp_path)], check=True)
    monkeypatch.setenv("PROMETHEUS_IMAGE", image)
    yield
    docker_engine.images.remove(image, force=True)


@pytest.fixture
def watched(prometheus_image: None, compose: Compose) -> Iterator[str]:
    """Yield the URL of Prometheus, which watches the services."""
    services = [target.split(":")[0] for target in TARGETS]
    compose.run("up", "--build", "--detach", "--wait", *services, "prometheus")
    yield f"http://127.0.0.1:{compose.ports['PROMETHEUS_PORT']}"
    compose.run("--profile", "*", "down", "--volumes", "--timeout", "20")


def answer(url: str) -> dict[str, Any]:
    """Return what Prometheus answers; an empty dict while it doesn't."""
    with suppress(OSError, HTTPException), urlopen(url, timeout=10) as response:
        return dict(json.load(response)["data"])
    return {}


def test_prometheus_reads_every_service_and_evaluates_every_rule(watched: str) -> None:
    def healths() -> dict[str, str]:
        targets = answer(f"{watched}/api/v1/targets").get("activeTargets", ())
        return {target["labels"]["instance"]: target["health"] for target in targets}

    def rules() -> list[dict[str, Any]]:
        groups = answer(f"{watched}/api/v1/rules").get("groups", ())
        return [rule for group in groups for rule in group["rules"]]

    wait_until(lambda: healths() == dict.fromkeys(TARGETS, "up"), every_s=1)
    evaluated = wait_until(
        lambda: (seen := rules()) and all(rule["health"] != "unknown" for rule in seen) and seen,
        every_s=1,
    )
    assert {
        rule["name"]: rule.get("lastError") for rule in evaluated if rule["health"] != "ok"
    } == {}
