"""The project's docker-compose.yml in a project of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from deadlines import DEADLINE_S
from running import run_cli

from mirrorlog.broker import ports
from mirrorlog.settings import Settings, load_settings

REPOSITORY: Final = Path(__file__).resolve().parents[1]
STATE: Final = "/var/lib/mirrorlog/state"
PORTS: Final = (
    *("KAFKA_PORT_1", "KAFKA_PORT_2", "KAFKA_PORT_3"),
    *("NODE_PORT_1", "NODE_PORT_2", "DASHBOARD_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"),
)
VOLUMES: Final[Mapping[str, str]] = {"vol1": "host-1", "vol2": "host-2"}
"""The volumes, and the services that serve them."""
NBD_PORTS: Final = {"vol1": "NBD_PORT_1", "vol2": "NBD_PORT_2"}
SITES: Final = ("site-a", "site-b")


class Compose:
    """The services of docker-compose.yml. Its ports are free ones.

    engine: a client of the Docker engine. environment: that of `docker compose` commands, which
    names the project and its ports.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.project: Final = f"mirrorlog-test-{uuid.uuid4().hex[:8]}"
        names = [*PORTS, *NBD_PORTS.values()]
        self.ports: Final = {name: ports.choose_free() for name in names}
        self.servers: Final = ",".join(
            f"127.0.0.1:{self.ports[name]}" for name in names if name.startswith("KAFKA")
        )
        self.environment: Final[Mapping[str, str]] = {
            **os.environ,
            **{name: str(port) for name, port in self.ports.items()},
            "COMPOSE_PROJECT_NAME": self.project,
            "VOLUME_SIZE": "64MiB",
            # A broker of a test lives for too short a time to gain by the second compiler.
            "KAFKA_JVM_OPTIONS": "-Xms128m -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        }

    def run(self, *arguments: str) -> str:
        """Run `docker compose …`, and return its output."""
        done = subprocess.run(
            ["docker", "compose", "--project-directory", str(REPOSITORY), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=3 * DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self) -> None:
        """Build and start all services, and return when they are healthy."""
        self.run("up", "--build", "--detach", "--wait")

    def container(self, service: str) -> Any:
        """Return the container of a service."""
        return self.engine.containers.get(f"{self.project}-{service}-1")

    def settings(self, folder: Path) -> Settings:
        """Return the settings of a client outside, with its state in `folder`."""
        return load_settings(None, {"state_dir": folder, "bootstrap_servers": self.servers})

    def started_again(self) -> list[str]:
        """Return the containers that Docker has started again, because they had ended."""
        containers = self.engine.containers.list(all=True)
        return [
            container.name
            for container in containers
            if self.project in container.name and container.attrs["RestartCount"]
        ]

    def digest(self, service: str, path: str) -> str:
        """Return the SHA-256 of a file below the state folder of a service."""
        code, output = self.container(service).exec_run(["sha256sum", f"{STATE}/{path}"])
        assert code == 0, output
        return str(output.split()[0].decode())


@contextmanager
def compose_of(engine: Any) -> Iterator[Compose]:
    """Yield the file's services, none of which runs yet. Remove whatever was started."""
    compose = Compose(engine)
    try:
        yield compose
    finally:
        theirs = objects_of(compose)
        compose.run("--profile", "*", "down", "--volumes", "--timeout", "20")
    assert theirs & everything(engine) == set()


def objects_of(compose: Compose) -> set[str]:
    """Return the names of the containers, networks and volumes (also anonymous ones)."""
    named = {name for name in everything(compose.engine) if compose.project in name}
    mounts = [
        mount
        for container in compose.engine.containers.list(all=True)
        if compose.project in container.name
        for mount in container.attrs["Mounts"]
    ]
    return named | {f"Volume {mount['Name']}" for mount in mounts if mount["Type"] == "volume"}


def everything(engine: Any) -> set[str]:
    """Return the names of all containers, volumes and networks of the engine."""
    objects = [*engine.containers.list(all=True), *engine.volumes.list(), *engine.networks.list()]
    return {f"{type(item).__name__} {item.name}" for item in objects}


def assert_copied(compose: Compose, settings: Settings, contents: Mapping[str, bytes]) -> None:
    """Wait until each site holds what was written; hold primaries and secondaries against it."""
    for volume, content in contents.items():
        waited = run_cli(settings, "site", "wait", volume)
        assert waited.returncode == 0, waited.stdout + waited.stderr
        reports = json.loads(waited.stdout)["secondaries"]
        assert sorted(report["site"] for report in reports) == sorted(SITES)
        digest = hashlib.sha256(content).hexdigest()
        assert compose.digest(VOLUMES[volume], f"primary/{volume}.img") == digest
        for site in SITES:
            assert compose.digest(site, f"site/{volume}.img") == digest, (site, volume)
