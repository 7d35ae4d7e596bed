"""`mirrorlog archive` on a real broker: what Kafka gives is what the archive holds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest
from archiving import as_rows
from command_line import run_main
from deadlines import DEADLINE_S
from notation import volume as small_volume
from running import run_cli, wait_for_result

from mirrorlog.adapters.archive_folder import FolderArchive
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.archive.archive import Archive, CommandsWanted
from mirrorlog.archive.chains import missing_in
from mirrorlog.cli.demo.run import Run
from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.domain.histories import History, anchor_of
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import Message
from mirrorlog.producers.traces import demo_trace_path
from mirrorlog.reading.catalog import publish_volume
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

pytestmark = pytest.mark.integration
pytest.importorskip("pyarrow")

_EVERYTHING = CommandsWanted(-1, 1 << 62)


class _Commands:
    """Writes commands, and says that the node has recorded them."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.topics = settings, settings.topics
        self.admin = KafkaAdmin(settings.kafka_client())
        self._publisher = KafkaPublisher(settings.kafka_client())
        publish_volume(self._publisher, self.topics, small_volume(name="v", partition=0))

    def write(self, count: int) -> None:
        for number in range(count):
            command = TrackingCommand(
                volume="v",
                generation=str(uuid4()),
                host="h",
                session="s",
                sequence=number,
                kind=CommandKind.WRITES,
                extents=ExtentColumns.of([Extent(number * 4096 % (1 << 20), 4096)]),
                first_at_us=number,
                last_at_us=number,
            )
            self._publisher.publish(self.topics.commands, 0, b"v", encode(command))
        self._publisher.flush(DEADLINE_S)

    def record(self) -> None:
        last = self.kept()[-1]
        history = History(
            cluster=self.admin.cluster_id(),
            topic=self.admin.identity(self.topics.commands),
            epoch=1,
            id="00000000-0000-0000-0000-000000000001",
        )
        watermark = Watermark(
            partition=0,
            through=last.position,
            at_us=0,
            history=history,
            anchor=anchor_of(last.key, last.value),
        )
        self._publisher.publish(self.topics.changelog, 0, watermark_key(0), encode(watermark))
        self._publisher.flush(DEADLINE_S)

    def kept(self, partition: int = 0) -> list[Message]:
        return topic_messages(self.settings, self.admin, partition)

    def close(self) -> None:
        self._publisher.close()
        self.admin.close()


def topic_messages(settings: Settings, admin: KafkaAdmin, partition: int) -> list[Message]:
    topic = settings.topics.commands
    patience = ReadPatience(SystemClock(), DEADLINE_S, "reading")
    end = admin.end_position(topic, partition)
    return list(
        read_range(
            lambda: KafkaReader(settings.kafka_client()),
            topic,
            partition,
            patience,
            start=admin.first_position(topic, partition),
            end=end,
        )
    )


def archived_messages(folder: Path, topic_id: str, partition: int) -> list[Message]:
    archive = Archive(FolderArchive(folder))
    return list(archive.commands(archive.line(partition, topic_id), _EVERYTHING))


@pytest.fixture
def commands(run: Run) -> Iterator[_Commands]:
    with closing(_Commands(run.settings)) as opened:
        yield opened


def _cli(settings: Settings, *arguments: str) -> tuple[int, str, str]:
    servers = ["--bootstrap-servers", settings.bootstrap_servers]
    config = settings.state_dir / "archive.toml"
    archive = settings.state_dir.parent / "archive"
    config.write_text(f'topic_prefix = "{settings.topic_prefix}"\narchive = "{archive}"\n')
    return run_main([*arguments, *servers, "-c", str(config), "--json"])


def test_the_archive_owns_retention_and_has_what_kafka_had(commands: _Commands) -> None:
    topic, folder = commands.topics.commands, commands.settings.state_dir.parent / "archive"
    commands.write(40)
    commands.record()
    before = as_rows(commands.kept())
    code, out, err = _cli(
        commands.settings, "archive", "run", "--once", "--to", str(folder), "--keep", "0s"
    )
    assert code == 0, err
    assert '"deleted"' in out
    config = commands.admin.configs([topic])[topic]
    assert (config["retention.ms"], config["retention.bytes"]) == ("-1", "-1")
    assert commands.admin.first_position(topic, 0) == 40
    identity = commands.admin.identity(topic)
    assert as_rows(archived_messages(folder, identity, 0)) == before

    commands.write(5)
    commands.record()
    _cli(commands.settings, "archive", "run", "--once", "--to", str(folder))
    assert as_rows(archived_messages(folder, identity, 0)) == before + as_rows(commands.kept())
    code, out, err = _cli(commands.settings, "archive", "verify", "--from", str(folder))
    assert code == 0, err
    assert json.loads(out)["partitions"][0]["commands"] == 45
    code, out, _ = _cli(commands.settings, "archive", "list", "--from", str(folder))
    (history,) = json.loads(out)["histories"]
    assert (history["after"], history["through"], history["rows"]) == (-1, 44, 45)

    commands.write(3)
    query = "SELECT count(*) AS n, max(position) AS p FROM writes JOIN volumes USING (volume)"
    code, out, err = _cli(commands.settings, "sql", query)
    assert (code, json.loads(out)) == (0, {"n": 48, "p": 47}), err
    code, out, err = _cli(commands.settings, "audit", "v", "--format", "json")
    assert code == 0, err
    audited = [json.loads(line) for line in out.splitlines()]
    positions = [row["position"] for row in audited if row.get("kind") == "write"]
    assert positions == list(range(48))

    code, out, _ = _cli(commands.settings, "status")
    (archive,) = json.loads(out)["archives"]
    assert (archive["archive"], archive["health"]) == (str(folder), "OK")
    assert archive["partitions"][0]["archived_through"] == 44
    code, _, _ = _cli(commands.settings, "archive", "off", "--keep", "2d", "--yes")
    assert commands.admin.configs([topic])[topic]["retention.ms"] == str(2 * 86_400_000)


@pytest.mark.slow
def test_kill_9_of_archivers_of_a_real_log_loses_nothing(run: Run, tmp_path: Path) -> None:
    """Two archivers at once, killed at random moments, while a host writes and a node records.

    Retention is 0 s: whatever is archived is deleted from Kafka at once.
    """
    random, folder = Random(1), tmp_path / "archive"
    run.start_node()
    run.wait_ready("node")
    topic, seen = run.settings.topics.commands, dict[int, dict[int, object]]()
    archivers: list[subprocess.Popen[bytes]] = []
    environment = run.settings.as_environment()

    def start_archiver() -> None:
        arguments = ["archive", "run", "--to", str(folder), "--every", "1s", "--leave-retention"]
        archivers.append(
            subprocess.Popen(
                [sys.executable, "-m", "mirrorlog", *arguments],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    run.start_host(demo_trace_path(), "auto", "--speed", "1")
    with closing(KafkaAdmin(run.settings.kafka_client())) as admin:
        try:
            for _ in range(25):
                start_archiver()
                start_archiver()
                with suppress(subprocess.TimeoutExpired):
                    archivers[-1].wait(random.uniform(0.5, 4.0))
                for archiver in archivers[-2:]:
                    archiver.send_signal(signal.SIGKILL)
                    archiver.wait()
        finally:
            for archiver in archivers:
                archiver.kill()
                archiver.wait()
        wait_for_result(run)
        done = run_cli(run.settings, "archive", "run", "--once", "--to", str(folder))
        assert done.returncode == 0, done.stderr
        for partition in range(admin.partitions(topic)):
            kept = {row[0]: row for row in as_rows(topic_messages(run.settings, admin, partition))}
            seen[partition] = dict(kept)
            identity = admin.identity(topic)
            archived = as_rows(archived_messages(folder, identity, partition))
            assert len({row[0] for row in archived}) == len(archived)
            through = max((row[0] for row in archived), default=-1)
            assert archived == [
                row for position, row in sorted(kept.items()) if position <= through
            ]
            line = Archive(FolderArchive(folder)).line(partition, identity)
            assert missing_in(line, after=-1, through=through) == []
    verified = run_cli(run.settings, "archive", "verify", "--from", str(folder))
    assert verified.returncode == 0, verified.stderr
