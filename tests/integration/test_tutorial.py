"""The tutorial's day, typed command by command from its own text, on containers."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from typed_pages import lacking_lines, outputs_of, shell_blocks, shown_outputs, type_blocks

from mirrorlog.broker import ports

pytestmark = [pytest.mark.integration, pytest.mark.containers]
REPOSITORY = Path(__file__).parents[2]
TUTORIAL = (REPOSITORY / "docs" / "tutorial.md").read_text("utf-8")
PORTS = ("KAFKA_PORT_1", "KAFKA_PORT_2", "KAFKA_PORT_3", "NODE_PORT_1", "NODE_PORT_2", "NBD_PORT_1")
CONTAINERS = ("vol1-at-site-a", "site-c")
"""What the tutorial starts beside the services."""


@pytest.fixture
def place() -> Iterator[Mapping[str, str]]:
    """Yield the environment of a project of its own at free ports; remove what was started."""
    import docker
    from docker.errors import DockerException, NotFound

    try:
        engine = docker.from_env()
    except DockerException as error:
        pytest.skip(f"no Docker engine answers: {str(error)[:120]}")
    project = f"mirrorlog-tutorial-{uuid.uuid4().hex[:8]}"
    environment = {
        **os.environ,
        **{name: str(ports.choose_free()) for name in (*PORTS, "PROMOTED_PORT")},
        "COMPOSE_PROJECT_NAME": project,
        "VOLUME_SIZE": "64MiB",
        # A broker of a test lives for too short a time to gain by the second compiler.
        "KAFKA_JVM_OPTIONS": "-Xms128m -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
    }
    try:
        yield environment
    finally:
        for name in CONTAINERS:
            try:
                engine.containers.get(name).remove(force=True)
            except NotFound:
                continue
        removed = type_blocks(["docker compose down --volumes"], REPOSITORY, environment)
        engine.close()
    assert removed.returncode == 0, removed.stderr


def at_free_ports(block: str, environment: Mapping[str, str]) -> str:
    """Return the block with this test's ports in the place of the ones that the page names."""
    block = block.replace("127.0.0.1:10809", f"127.0.0.1:{environment['NBD_PORT_1']}")
    return block.replace("127.0.0.1:10811", f"127.0.0.1:{environment['PROMOTED_PORT']}")


def test_the_page_waits_for_conditions_and_compares_bytes() -> None:
    blocks = shell_blocks(TUTORIAL)
    commands = "\n".join(blocks)
    assert re.findall(r"^\s*(?:export\s+)?\w+=", commands, re.MULTILINE) == []
    assert commands.count("sleep") == commands.count("until ")
    assert commands.count("cmp <(") == commands.count("&& echo identical") == 4
    for step in ("up --detach", "site-b", "promote", "rejoin", "restore"):
        assert step in commands
    assert set(shown_outputs(TUTORIAL).values()) >= {"identical\n", "exit code 4\n"}


def test_shown_lines_are_found_loosely_and_in_order() -> None:
    printed = "VOLUME  SITE  STATE  LAG\nv  a  CONSISTENT  0 s\nv  b  SYNCING  3 s\n"
    assert lacking_lines("VOLUME SITE LAG\nv a CONSISTENT\n", printed) == []
    assert lacking_lines("v b CONSISTENT\n", printed) == ["v b CONSISTENT"]
    assert lacking_lines("v b SYNCING\nv a CONSISTENT\n", printed) == ["v a CONSISTENT"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="the tutorial needs qemu-io")
def test_the_day_ends_with_a_restored_volume_and_identical_copies(
    place: Mapping[str, str],
) -> None:
    blocks = [at_free_ports(block, place) for block in shell_blocks(TUTORIAL)]
    done = type_blocks(blocks, REPOSITORY, place, marked=True)
    outputs = outputs_of(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(outputs) == len(blocks), done.stdout
    lacking = {
        blocks[index]: lines
        for index, shown in shown_outputs(TUTORIAL).items()
        if (lines := lacking_lines(shown, outputs[index]))
    }
    assert lacking == {}, done.stdout
    assert "verification failed" not in done.stdout  # of qemu-io's patterns
