"""A mirror of the topics on another cluster is refused: its positions name other commands."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from deadlines import DEADLINE_S
from running import run_cli

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.changed.ask import ask_kafka
from mirrorlog.changed.points import AtEnd, AtOrigin
from mirrorlog.cli.demo.run import Run
from mirrorlog.codec.events import decode, encode
from mirrorlog.consumers import run_site
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import ExitCode, WrongCluster
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers import open_volume
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.settings import Settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def other_broker(fast_root: Path) -> Iterator[EmbeddedBroker]:
    folder = Path(tempfile.mkdtemp(dir=fast_root, prefix="other-broker-"))
    with EmbeddedBroker(folder, prepare_runtime(Settings().cache_dir)) as broker:
        yield broker


def mirror(source: Settings, target: Settings, *, with_cluster: bool) -> None:
    """Copy the topics as MirrorMaker 2 does: keys, values, partitions and order.

    with_cluster: descriptions name their cluster, as those of this release do.
    """
    reading, writing = KafkaAdmin(source.kafka_client()), KafkaAdmin(target.kafka_client())
    producer = Producer({"bootstrap.servers": target.bootstrap_servers})
    topics = source.topics
    writing.create(topics.specs(single_copy=True), reading.partitions(topics.commands))
    # The mirror begins with a message that the source doesn't have, so every position differs.
    producer.produce(topics.commands, b"not of the source", b"", 0)
    for topic in (topics.volumes, topics.commands, topics.changelog, topics.progress):
        for partition in range(reading.partitions(topic)):
            patience = ReadPatience(SystemClock(), DEADLINE_S, "copying a topic")
            end = reading.end_position(topic, partition)
            for message in read_range(
                lambda: KafkaReader(source.kafka_client()),
                topic,
                partition,
                patience,
                start=None,
                end=end,
            ):
                value = message.value
                if value is not None and topic == topics.volumes and not with_cluster:
                    value = encode(replace(decode(value, Volume), cluster=None))
                producer.produce(topic, value, message.key, partition)
    assert producer.flush(DEADLINE_S) == 0
    reading.close()
    writing.close()


@pytest.mark.parametrize(
    "with_cluster", [True, False], ids=["by its descriptions", "by its watermarks"]
)
def test_sites_hosts_questions_and_the_node_refuse_a_mirror(
    world: Run, other_broker: EmbeddedBroker, tmp_path: Path, with_cluster: bool
) -> None:
    world.start_node()
    source = world.settings
    _command(source, "volume", "create", "v", "--size", "1MiB")
    with open_volume("v", source) as volume:
        volume.pwrite(b"x" * 4096, 0, fua=True)
    assert ask_kafka(source, "v", AtOrigin(), AtEnd(), DEADLINE_S).changed
    target = source.model_copy(
        update={
            "bootstrap_servers": other_broker.bootstrap_servers,
            "state_dir": tmp_path / "other-state",
        }
    )
    mirror(source, target, with_cluster=with_cluster)

    with pytest.raises(WrongCluster, match="a mirror or a copy"):
        ask_kafka(target, "v", AtOrigin(), AtEnd(), DEADLINE_S)
    with pytest.raises(WrongCluster):
        open_volume("v", target, host="another")
    with pytest.raises(WrongCluster):
        run_site("site", tmp_path / "site", target)
    assert not (tmp_path / "site" / "v.img").exists(), "nothing is made before the refusal"
    refused = _command(target, "node", code=ExitCode.BAD_USE)
    assert "a mirror or a copy" in refused


def _command(settings: Settings, *arguments: str, code: int = 0) -> str:
    """Run a command line, which must end with `code`; return what it printed to stderr."""
    done = run_cli(settings, *arguments, as_json=False)
    assert done.returncode == code, done.stderr
    return done.stderr
