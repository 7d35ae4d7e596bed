"""The upgrades of docs/compose.md, typed from the page while a client publishes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from broker_view import BrokerView
from compose_clients import CommandClient, VolumeClient
from composing import REPOSITORY, Compose, assert_copied
from deadlines import wait_until
from running import run_cli
from typed_pages import shell_blocks, type_blocks

from mirrorlog.cli.support.lookup import load_volumes

pytestmark = [
    pytest.mark.integration,
    pytest.mark.containers,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]

PAGE: Final = (REPOSITORY / "docs" / "compose.md").read_text("utf-8")
_LABEL: Final = "of-the-new-release"


def typed_loops() -> list[str]:
    """Return the page's blocks for mirrorlog and for brokers, without what fetches a release."""
    section = PAGE.partition("\n## Upgrades\n")[2].partition("\n## ")[0]
    loops = [block for block in shell_blocks(section) if "for " in block]
    return [re.sub(r"^(git pull|export KAFKA_IMAGE=.*)\n", "", block) for block in loops]


def new_release(compose: Compose, folder: Path) -> dict[str, str]:
    """Return an environment in which each service is another one than the one that runs."""
    services = json.loads(compose.run("config", "--format", "json"))["services"]
    labels: dict[str, Any] = {name: {"labels": {_LABEL: "yes"}} for name in services}
    file = folder / "release.yml"
    file.write_text(json.dumps({"services": labels}))  # JSON is YAML
    files = f"{REPOSITORY / 'docker-compose.yml'}:{file}"
    return {**compose.environment, "COMPOSE_FILE": files}


def test_services_and_brokers_are_upgraded_one_by_one_and_nothing_is_lost(
    compose: Compose, tmp_path: Path
) -> None:
    loops = typed_loops()
    assert len(loops) == 2
    compose.up()
    settings = compose.settings(tmp_path / "state")
    volumes, brokers = load_volumes(settings), BrokerView(settings)
    hosts = [VolumeClient(compose, name, seed=number) for number, name in enumerate(volumes)]
    for host in hosts:  # the restart of a host ends its clients' connections
        with host.writing():
            host.wait_for_more()
    client = CommandClient(settings, volumes["vol1"])
    with client.writing():
        client.wait_for_more()
        done = type_blocks(loops, REPOSITORY, new_release(compose, tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        brokers.wait_for_all()
        client.wait_for_more()
    assert client.losses() == []
    old = {
        service
        for service in json.loads(compose.run("config", "--format", "json"))["services"]
        if service not in ("setup", "demo")
        and _LABEL not in compose.container(service).attrs["Config"]["Labels"]
    }
    assert old == set(), "the page's loops leave services of the old release"
    assert_copied(compose, settings, {host.volume: host.content for host in hosts})
    wait_until(lambda: run_cli(settings, "check").returncode == 0, every_s=1)
