"""The commands topic is created again, or the broker is restored from a backup (histories.md).

The site says so, and copies everything; in the end it is consistent without a difference.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from deadlines import DEADLINE_S, wait_until
from running import committed
from typer.testing import CliRunner

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.main import app
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.ports.clock import SystemClock
from mirrorlog.processes.child_processes import stop_all
from mirrorlog.producers import open_volume
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings, load_settings

pytestmark = pytest.mark.integration

BLOCK = 4096
SETTINGS = {
    "partitions": 1,
    "node_http": "off",
    "host_batch_extents": 1,
    "host_heartbeat_s": DEADLINE_S,
}
"""Each write is a command of its own, and there are no heartbeats. So it doesn't depend on the pace
how far the positions go."""


def command_line(settings: Settings, *arguments: str) -> str:
    """Run mirrorlog in this process; return what it printed."""
    result = CliRunner().invoke(app, list(arguments), env=settings.as_environment())
    assert result.exit_code == 0, result.output
    return result.output


def stop(run: Run, *names: str) -> None:
    """Stop parts in good order. They are started anew, because the broker's address may change."""
    stop_all([run.parts.pop(name) for name in names])


def write(run: Run, first: int, count: int, fill: int) -> None:
    """Write blocks of the volume in a session of its own. All are in Kafka when it returns."""
    with open_volume("v", run.settings) as volume:
        for block in range(first, first + count):
            volume.pwrite(bytes([fill]) * BLOCK, block * BLOCK, fua=True)


def wait_for_report(run: Run, is_wanted: Callable[[SiteProgress], bool]) -> str:
    """Wait for a report of the site that is wanted; return the generation that it names."""
    client, seen = run.settings.kafka_client(), list[SiteProgress]()
    with closing(KafkaAdmin(client)) as admin, closing(KafkaReader(client)) as reader:
        reports = SiteReports(reader, admin, run.settings.topics, SystemClock())
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            reports.refresh()
            seen += reports.of("v")
            if seen and is_wanted(seen[-1]):
                return seen[-1].generation
            reports.poll(0.2)
    raise AssertionError(seen[-1:])


def is_consistent_at(position: int) -> Callable[[SiteProgress], bool]:
    def is_wanted(report: SiteProgress) -> bool:
        is_consistent = report.state is SiteState.CONSISTENT
        return is_consistent and (report.consistent_position or -1) >= position

    return is_wanted


def end_of_commands(run: Run) -> int:
    with closing(KafkaAdmin(run.settings.kafka_client())) as admin:
        return admin.end_position(run.settings.topics.commands, 0)


def check_equal(run: Run) -> None:
    primary = run.folder / "primary" / "v.img"
    assert primary.read_bytes() == (run.folder / "a" / "v.img").read_bytes()


def start(run: Run) -> None:
    run.start_node()
    run.start_site("a")
    run.wait_ready("node", "a")


@pytest.mark.parametrize("world", [SETTINGS], indirect=True, ids=[""])
def test_a_commands_topic_that_is_created_again(world: Run) -> None:
    start(world)
    command_line(world.settings, "volume", "create", "v", "--size", "1MiB")
    write(world, 0, 20, fill=1)
    old_end = end_of_commands(world)
    before = wait_for_report(world, is_consistent_at(old_end - 1))
    stop(world, "a", "node")
    topic = world.settings.topics.commands
    with closing(KafkaAdmin(world.settings.kafka_client())) as admin:
        admin.delete([topic])
        until = time.monotonic() + DEADLINE_S
        while topic in admin.names(topic):
            assert time.monotonic() < until
        admin.create(world.settings.topics.specs(single_copy=True), 1)
    start(world)
    write(world, 100, 8, fill=2)  # below the old watermark
    end = end_of_commands(world)
    wait_for_report(
        world, lambda report: is_consistent_at(end - 1)(report) and report.generation != before
    )
    assert end < old_end  # all are positions of the old topic
    check_equal(world)
    assert "the commands topic was created again" in (world.folder / "node.log").read_text()
    assert "taking the rung" in (world.folder / "a.log").read_text()


@pytest.mark.long
@pytest.mark.parametrize("worker", ["is stopped", "is killed", "loses its disk"])
def test_a_broker_that_goes_back_in_time_and_uses_positions_again(
    tmp_path: Path, worker: str
) -> None:
    settings = load_settings(None, {"state_dir": tmp_path / "state", **SETTINGS})
    with Run(tmp_path / "run", settings, own_broker=True) as run:
        run.start_broker()
        start(run)
        command_line(run.settings, "volume", "create", "v", "--size", "1MiB")
        write(run, 0, 5, fill=1)
        wait_for_report(run, is_consistent_at(end_of_commands(run) - 1))
        stop(run, "a", "node")
        data = run.folder / "broker" / "data"
        restart_broker(run, lambda: shutil.copytree(data, tmp_path / "backup"))
        start(run)
        write(run, 20, 20, fill=2)
        before = end_of_commands(run) - 1
        wait_for_report(run, is_consistent_at(before))
        # The site reads the last flush from the changelog before the node's table has it. A table
        # without the session's close would be the last that knows of the session, as an open one.
        wait_until(lambda: (committed(run)[0] or 0) > before, run.check, every_s=0.2)
        if worker == "is killed":
            run.parts.pop("node").kill()
            stop(run, "a")
        else:
            stop(run, "a", "node")

        def restore() -> None:
            shutil.rmtree(data)
            shutil.copytree(tmp_path / "backup", data)

        restart_broker(run, restore)
        if worker == "loses its disk":
            for folder in run.folder.glob("node*"):
                shutil.rmtree(folder) if folder.is_dir() else None
        # While nothing else runs, past the old positions. One session may not be enough: its host
        # finds that the history broke, and for a while no command names its writes.
        while end_of_commands(run) <= before:
            write(run, 60, 40, fill=3)
        start(run)
        write(run, 120, 2, fill=4)
        wait_for_report(run, is_consistent_at(end_of_commands(run) - 1))
        check_equal(run)
        node_log = (run.folder / "node.log").read_text()
        assert "Its history is renewed: epoch" in node_log
        knows = "the table of partition 0 is rebuilt from the changelog" in node_log
        assert knows == (worker != "loses its disk")
        assert "taking the rung" in (run.folder / "a.log").read_text()


def restart_broker(run: Run, meanwhile: Callable[[], object]) -> None:
    """Stop the run's broker, call `meanwhile`, and start it again."""
    assert run.broker is not None
    run.broker.stop()
    meanwhile()
    run.start_broker()
