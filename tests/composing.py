"""The project's docker-compose.yml in a project of its own, and clients that write through it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any, Final

from deadlines import DEADLINE_S, wait_until
from running import run_cli

from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.broker import ports
from mirrorlog.settings import Settings, load_settings

REPOSITORY: Final = Path(__file__).resolve().parents[1]
STATE: Final = "/var/lib/mirrorlog/state"
PORTS: Final = ("KAFKA_PORT_1", "KAFKA_PORT_2", "KAFKA_PORT_3", "NODE_PORT_1", "NODE_PORT_2")
VOLUMES: Final[Mapping[str, str]] = {"vol1": "host-1", "vol2": "host-2"}
"""The volumes, and the services that serve them."""
NBD_PORTS: Final = {"vol1": "NBD_PORT_1", "vol2": "NBD_PORT_2"}
SITES: Final = ("site-a", "site-b")


class Compose:
    """The services of docker-compose.yml. Its ports are free ones.

    engine: a client of the Docker engine.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.project: Final = f"mirrorlog-test-{uuid.uuid4().hex[:8]}"
        names = [*PORTS, *NBD_PORTS.values()]
        self.ports: Final = {name: ports.choose_free() for name in names}
        self.servers: Final = ",".join(
            f"127.0.0.1:{self.ports[name]}" for name in names if name.startswith("KAFKA")
        )

    def run(self, *arguments: str) -> str:
        """Run `docker compose …`, and return its output."""
        command = ["docker", "compose", "--project-directory", str(REPOSITORY)]
        done = subprocess.run(
            [*command, "--project-name", self.project, *arguments],
            env={
                **os.environ,
                **{name: str(port) for name, port in self.ports.items()},
                # A broker of a test lives for too short a time to gain by the second compiler.
                "KAFKA_JVM_OPTIONS": "-Xms128m -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
                "VOLUME_SIZE": "64MiB",
            },
            capture_output=True,
            text=True,
            timeout=3 * DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

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


class VolumeClient:
    """An NBD client that writes to a volume of the file from a thread, at random, by a seed.

    written: how many writes were acknowledged. content: what the volume must hold by them.
    """

    def __init__(self, compose: Compose, volume: str, seed: int) -> None:
        uri = parse_nbd_uri(f"nbd://127.0.0.1:{compose.ports[NBD_PORTS[volume]]}/")
        self.volume, self.written = volume, 0
        self._device = NbdDevice(uri, writable=True)
        self.content = bytearray(self._device.size_bytes)
        self._random, self._stop = Random(seed), Event()
        self._thread = Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            length = 512 * self._random.randrange(1, 64)
            offset = 512 * self._random.randrange((len(self.content) - length) // 512)
            data = self._random.randbytes(length)
            self._device.pwrite(offset, data)
            self.content[offset : offset + length] = data
            self.written += 1
            self._stop.wait(0.002)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write while the block runs, then flush. A client writes in one block only."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), f"a write to {self.volume} hangs"
        self._device.flush()
        self._device.close()

    def wait_for_more(self, count: int = 50) -> None:
        """Return when so many more writes were acknowledged."""
        wanted = self.written + count
        wait_until(lambda: self.written >= wanted, self._check)

    def _check(self) -> None:
        assert self._thread.is_alive(), f"the client of {self.volume} has ended"


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
