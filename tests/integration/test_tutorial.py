"""The tutorial's day, typed command by command from its own text, on containers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress

import pytest
from composing import REPOSITORY, Compose
from typed_pages import lacking_lines, outputs_of, shell_blocks, shown_outputs, type_blocks

from mirrorlog.broker import ports

pytestmark = [pytest.mark.integration, pytest.mark.containers]
TUTORIAL = (REPOSITORY / "docs" / "tutorial.md").read_text("utf-8")
CONTAINERS = ("vol1-at-site-a", "site-c")
"""What the tutorial starts beside the services."""


@pytest.fixture
def place(compose: Compose) -> Iterator[Mapping[str, str]]:
    """Yield the environment of a project of its own; remove what was started beside services."""
    from docker.errors import NotFound

    yield {**compose.environment, "PROMOTED_PORT": str(ports.choose_free())}
    for name in CONTAINERS:
        with suppress(NotFound):
            compose.engine.containers.get(name).remove(force=True)


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
    done = type_blocks(blocks, REPOSITORY, place)
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
