"""docker-compose.yml gives no service more than it needs, as `docker compose config` reads it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

FILE: Final = Path(__file__).parents[2] / "docker-compose.yml"
ONE_SHOTS: Final = {"setup", "demo"}
MACHINE_BYTES: Final = 24 << 30


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    if shutil.which("docker") is None:
        pytest.skip("the docker command isn't here")
    compose = ["docker", "compose", "-f", str(FILE)]
    if subprocess.run([*compose, "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose isn't here")
    done = subprocess.run(
        [*compose, "--profile", "*", "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout)["services"])


def test_no_service_has_rights(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("cap_add"), name
        assert not service.get("privileged"), name
        assert service["user"].split(":")[0] not in ("", "0", "root"), name


def test_all_ports_are_of_the_loopback(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert len({port["published"] for port in published}) == len(published)


def test_services_are_watched_and_started_again(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name in ONE_SHOTS:
            assert service["restart"] == "no", name
        else:
            assert service["healthcheck"]["test"], name
            assert service["restart"] == "unless-stopped", name


def test_all_services_together_fit_the_machine(services: dict[str, Any]) -> None:
    assert sum(int(service["mem_limit"]) for service in services.values()) < MACHINE_BYTES


def test_what_is_mounted_exists(services: dict[str, Any]) -> None:
    for service in services.values():
        for volume in service.get("volumes", ()):
            assert volume["type"] == "volume" or Path(volume["source"]).exists(), volume["source"]


def test_images_of_others_have_a_version(services: dict[str, Any]) -> None:
    for name in ("prometheus", "grafana"):
        assert re.fullmatch(r".+:v?\d+\.\d+\.\d+", services[name]["image"]), name
    assert re.search(r"KAFKA_IMAGE:-\S+:\d+\.\d+\.\d+}", FILE.read_text("utf-8"))
