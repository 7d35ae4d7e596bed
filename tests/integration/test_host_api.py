"""A program writes to a volume through mirrorlog.producers, on a real broker."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from deadlines import DEADLINE_S

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.lookup import read_topic
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.errors import BadUse
from mirrorlog.producers import TrackedVolume, open_volume
from mirrorlog.reading.catalog import new_volume, publish_volume
from mirrorlog.settings import inherited_environment

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE, BLOCK = 8 << 20, 4096


@pytest.fixture
def primary(world: Run, tmp_path: Path) -> Path:
    """Make the volume vol1; return the path of its primary."""
    path = tmp_path / "vol1.img"
    FileDevice.create(path, SIZE).close()
    client = world.settings.kafka_client()
    admin, publisher = KafkaAdmin(client), KafkaPublisher(client)
    topic = world.settings.topics.commands
    ends = [admin.end_position(topic, number) for number in range(admin.partitions(topic))]
    publish_volume(
        publisher,
        world.settings.topics,
        new_volume(
            "vol1", size_bytes=SIZE, block_size=BLOCK, primary=path.as_uri(), ends=ends, now_us=1
        ),
    )
    publisher.flush(DEADLINE_S)
    publisher.close()
    admin.close()
    return path


def named(world: Run) -> set[int]:
    """Return the blocks that commands name."""
    blocks: set[int] = set()
    for message in read_topic(world.settings, world.settings.topics.commands):
        command = decode(message.value or b"", TrackingCommand)
        for extent in command.extents:
            blocks |= set(range(extent.offset // BLOCK, -(-extent.end // BLOCK)))
    return blocks


def test_the_examples_of_the_documentation_run(
    world: Run, primary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in world.settings.as_environment().items():
        monkeypatch.setenv(name, value)
    examples = re.findall(
        r"```python\n(.*?)```", (REPOSITORY / "docs" / "host-api.md").read_text("utf-8"), re.DOTALL
    )
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "docs/host-api.md", "exec"), {})
    content = primary.read_bytes()
    assert (content[4096:4101], content[8192:8215], content[-512:]) == (
        b"hello",
        b"durable when it returns",
        b"x" * 512,
    )
    assert named(world) == {1, 2, SIZE // BLOCK - 1, *range(256, 768)}


@pytest.mark.disk
@pytest.mark.parametrize("direct", [False, True])
def test_threads_write_and_every_block_is_named(world: Run, primary: Path, direct: bool) -> None:
    try:
        volume = TrackedVolume.open("vol1", world.settings, direct=direct)
    except BadUse as error:
        pytest.skip(str(error))
    with volume, ThreadPoolExecutor(4) as pool:

        def write(seed: int) -> None:
            random = Random(seed)
            for _ in range(100):
                offset = random.randrange(SIZE // 2) | 1
                volume.pwrite(
                    random.randbytes(random.randrange(1, 10_000)), offset, fua=random.random() < 0.1
                )

        assert list(pool.map(write, range(4))) == [None] * 4
    content = primary.read_bytes()
    written = {
        number
        for number in range(SIZE // BLOCK)
        if any(content[number * BLOCK : (number + 1) * BLOCK])
    }
    assert written <= named(world)
    assert len(named(world)) < SIZE // BLOCK


INTERRUPTED = """
import mirrorlog.producers.volume_session as session
from mirrorlog.domain.extents import ExtentKind
session.IDLE_TIMEOUT_S = 0.1
with session.open_volume("vol1") as volume:
    volume.pwrite(b"x", 1 << 20)
    tracker, opened = volume.tracker_and_volume
    {meanwhile}
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize("in_flight", [False, True])
def test_ctrl_c_ends_the_session_cleanly_unless_a_write_is_between_two_steps(
    world: Run, primary: Path, in_flight: bool
) -> None:
    meanwhile = "tracker.begin(opened, ExtentKind.WRITE, offset=0, length=10)" if in_flight else ""
    environment = {**inherited_environment(), **world.settings.as_environment()}
    command = [sys.executable, "-c", INTERRUPTED.format(meanwhile=meanwhile)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert (done.returncode, "KeyboardInterrupt" in done.stderr) == (-signal.SIGINT, True)
    reports: list[str] = []
    open_volume("vol1", world.settings, report=reports.append).close()
    region = world.settings.region_bytes // BLOCK
    assert named(world) == (set(range(region)) if in_flight else {256})
    assert [report.partition(";")[2] for report in reports] == [
        " up to 4.0 MiB count as dirty"
    ] * in_flight


@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit isn't installed")
def test_another_host_is_refused_whatever_it_shares_with_the_first(
    world: Run, primary: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "reached-otherwise.img"
    FileDevice.create(elsewhere, SIZE).close()
    with open_volume("vol1", world.settings) as volume:
        volume.pwrite(b"x", 0)
        session = volume.tracker_and_volume[0]._state.outbox.session
        for options, reason in (
            ([], "another process on this machine writes to the primary"),
            (["--primary", str(elsewhere)], "another process keeps its state in this folder"),
            (
                ["--primary", str(elsewhere), "--host", "other"],
                f"host 'host-vol1', session {session}, since 20",
            ),
        ):
            done = serve(world, *options)
            error = json.loads(done.stdout.splitlines()[-1])
            assert (done.returncode, error["message_type"], error["code"]) == (2, "error", "BadUse")
            assert reason in error["what"]
        volume.pwrite(b"y", BLOCK)
    assert named(world) == {0, 1}
    with open_volume("vol1", world.settings, host="other", primary=str(elsewhere)) as volume:
        volume.pwrite(b"z", 0)


def serve(world: Run, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mirrorlog",
        "--json",
        "host",
        "serve",
        "vol1",
        "--through",
        "plugin",
        *options,
    ]
    environment = {**inherited_environment(), **world.settings.as_environment()}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
