"""A site on a cluster of its own, which the real MirrorMaker 2 fills from that of host and node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from deadlines import DEADLINE_S, wait_until
from mirrormaker import (
    MirrorMaker,
    documented_properties,
    mirrormaker_runtime,
    with_values,
)
from running import run_cli

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.broker.ports import choose_free
from mirrorlog.broker.runtime import Runtime
from mirrorlog.changed.ask import ask_kafka
from mirrorlog.changed.points import AtBarrier, AtEnd, AtOrigin
from mirrorlog.cli.demo.proof import ProgressFollower
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.lookup import load_volumes
from mirrorlog.errors import BadUse, KafkaFailed, MirrorlogError
from mirrorlog.producers import open_volume
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZE = 1 << 20
BLOCK = 4096
FENCED = "the secondary of site berlin is the primary since position"


@pytest.fixture(scope="module")
def maker_runtime() -> Runtime:
    try:
        return mirrormaker_runtime(Settings().cache_dir)
    except KafkaFailed as error:
        pytest.skip(f"MirrorMaker's files from Maven can't be had: {error}")


@pytest.fixture
def site_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path / "broker", prepare_runtime(Settings().cache_dir)) as broker:
        yield broker


@dataclass
class TwoClusters:
    """The node and a host on the source, the site `berlin` on the other cluster."""

    source: Run
    site: Run
    maker: MirrorMaker
    folder: Path

    def wait(self, is_reached: Callable[[], bool]) -> None:
        """Wait until the condition is true, as long as all processes live."""
        wait_until(is_reached, self.check, every_s=0.1)

    def check(self) -> None:
        """Fail if a process has ended by itself."""
        for part in (self.source, self.site, self.maker):
            part.check()

    def wait_proved(self, follower: ProgressFollower, last: int | None = None) -> None:
        """Wait until the site has proved all through `last`; check that it's true.

        None: all that the host has published.
        """
        if last is None:
            last = ask_kafka(self.source.settings, "v", AtOrigin(), AtEnd(), DEADLINE_S).until

        def is_proved() -> bool:
            follower.poll(0.1)
            return not follower.unproved("berlin", {"v": last})

        self.wait(is_proved)
        assert self.same_bytes()

    def same_bytes(self) -> bool:
        """Return whether the secondary equals the primary, byte for byte."""
        secondary = self.site.folder / "berlin" / "v.img"
        return secondary.read_bytes() == (self.folder / "v.img").read_bytes()


@pytest.fixture
def clusters(
    world: Run,
    site_broker: EmbeddedBroker,
    maker_runtime: Runtime,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[TwoClusters]:
    """Yield both clusters with a volume `v`, the node, the site and MirrorMaker.

    The parameter: whether names stay, whether exactly-once is on, and whether the test starts
    MirrorMaker itself.
    """
    identity, exactly_once, *is_late = request.param
    source = world.settings.model_copy(
        update={"kafka_mirrored_sites": ("",) if identity else ("berlin.",)}
    )
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "v.img").write_bytes(bytes(SIZE))
    created = run_cli(
        source, "volume", "create", "v", "--size", str(SIZE), "--primary", str(folder / "v.img")
    )
    assert created.returncode == 0, created.stderr
    admin = KafkaAdmin(source.kafka_client())
    target = source.model_copy(
        update={
            "bootstrap_servers": site_broker.bootstrap_servers,
            "state_dir": tmp_path / "site-state",
            "kafka_mirror_of": admin.cluster_id(),
            "kafka_mirror_prefix": "" if identity else "source.",
            "kafka_mirrored_sites": (),
        }
    )
    admin.close()
    base, policy, once = documented_properties()
    properties = base.replace("mirrorlog", source.topic_prefix.removesuffix("."))
    properties = with_values(
        properties,
        {
            "source.bootstrap.servers": source.bootstrap_servers,
            "berlin.bootstrap.servers": target.bootstrap_servers,
            "refresh.topics.interval.seconds": "1",
            **dict.fromkeys(
                (
                    "replication.factor",
                    "offset-syncs.topic.replication.factor",
                    "offset.storage.replication.factor",
                    "status.storage.replication.factor",
                    "config.storage.replication.factor",
                ),
                "1",
            ),
        },
    )
    properties += policy if identity else ""
    if exactly_once:
        listeners = f"http://127.0.0.1:{choose_free()}"
        properties += with_values(once, {"listeners": listeners})
    with ExitStack() as stack:
        source_run = stack.enter_context(Run(tmp_path / "source", source, own_broker=False))
        site_run = stack.enter_context(Run(tmp_path / "site", target, own_broker=False))
        source_run.start_node()
        site_run.start_broker()
        maker = MirrorMaker(tmp_path / "mm2", maker_runtime, properties)
        if is_late:
            stack.callback(maker.kill)
        else:
            stack.enter_context(maker)
        yield TwoClusters(source_run, site_run, maker, folder)


@pytest.mark.parametrize(
    "clusters",
    [(False, False), (True, True), (False, True), (True, False)],
    ids=[
        "default names, at least once",
        "same names, exactly once",
        "default names, exactly once",
        "same names, at least once",
    ],
    indirect=True,
)
def test_a_site_behind_mirrormaker_is_consistent_and_never_before(clusters: TwoClusters) -> None:
    source, site = clusters.source.settings, clusters.site.settings
    _await_topics(site, clusters)
    clusters.site.start_site("berlin")
    follower = ProgressFollower(site)
    with open_volume("v", source) as volume:
        writes = _known_writes(source)
        volume.pwrite(b"a" * BLOCK, 0)
        volume.flush()
        clusters.wait(lambda: _known_writes(source) > writes)
        clusters.wait_proved(follower)

        clusters.maker.kill()
        writes = _known_writes(source)
        volume.pwrite(b"b" * BLOCK, 5 * BLOCK)
        volume.flush()
        clusters.maker.start()
        clusters.wait(lambda: _known_writes(source) > writes)
        clusters.wait_proved(follower)
    follower.close()

    admin = KafkaAdmin(site.kafka_client())
    config = admin.configs([site.topics.changelog])[site.topics.changelog]
    admin.close()
    assert config["cleanup.policy"] == "compact"  # docs/multi-site.md says so

    at_source = ask_kafka(source, "v", AtOrigin(), AtEnd(), DEADLINE_S)
    at_site = ask_kafka(site, "v", AtOrigin(), AtEnd(), DEADLINE_S)
    assert at_site.changed == at_source.changed
    assert at_site.until == at_source.until
    with pytest.raises(BadUse, match="times and barriers mean nothing"):
        ask_kafka(site, "v", AtBarrier("b"), AtEnd(), DEADLINE_S)
    verified = run_cli(source, "verify", "v", "--site", "berlin")
    assert verified.returncode == 0, verified.stderr
    for settings in (source, site):
        clusters.wait(lambda settings=settings: _state(settings) == "CONSISTENT")


@pytest.mark.parametrize(
    "clusters",
    [(False, False, "late"), (True, True, "late")],
    ids=["default names, at least once", "same names, exactly once"],
    indirect=True,
)
def test_a_mirror_that_begins_where_retention_left_the_source(clusters: TwoClusters) -> None:
    """The source's oldest commands are gone before the mirror begins; MirrorMaker dies later."""
    source, site = clusters.source.settings, clusters.site.settings
    partition = load_volumes(source)["v"].partition

    def write(block: int) -> int:
        """Write a block in a session of its own. Return the position of its end."""
        with open_volume("v", source) as volume:
            volume.pwrite(bytes([block]) * BLOCK, block * BLOCK)
        return _end(source, source.topics.commands, partition) - 1

    for block in (1, 9, 17):
        written = write(block)
    clusters.wait(lambda: _log_through(source, partition) >= written)
    _trim(source, source.topics.commands, partition)
    clusters.maker.start()
    _await_topics(site, clusters)
    clusters.site.start_site("berlin")
    follower = ProgressFollower(site)
    clusters.wait_proved(follower, write(25))

    clusters.maker.kill()
    last = write(33)
    clusters.maker.start()
    clusters.wait_proved(follower, last)
    follower.close()


@pytest.mark.parametrize("clusters", [(False, False)], ids=["default names"], indirect=True)
def test_a_site_behind_mirrormaker_takes_the_place_of_a_primary(clusters: TwoClusters) -> None:
    """The mirror says what is proved. The source's log decides, and fences the old host by it."""
    source, site = clusters.source.settings, clusters.site.settings
    there = source.model_copy(update={"state_dir": site.state_dir})
    folder = clusters.site.folder / "berlin"
    promote = ("promote", "v", "--site", "berlin", "--dir", str(folder), "--yes")
    _await_topics(site, clusters)
    clusters.site.start_site("berlin")
    follower = ProgressFollower(site)
    with pytest.raises(MirrorlogError, match=FENCED), open_volume("v", source) as volume:
        volume.pwrite(b"a" * BLOCK, 0)
        volume.flush()
        clusters.wait(lambda: _known_writes(source) >= 1)
        clusters.wait_proved(follower)

        claim = _printed(site, *promote, "--dry-run")
        assert claim["consistent_position"] is not None
        refused = _printed(site, *promote, code=2)
        assert "mirror" in refused["what"]
        volume.pwrite(b"b" * BLOCK, 5 * BLOCK)  # nobody has fenced it
        volume.flush()
        clusters.wait(lambda: _known_writes(source) >= 2)
        clusters.wait_proved(follower)

        promoted = _printed(there, *promote)
        assert (promoted["primary_site"], promoted["lost"]["blocks"]) == ("berlin", 0)
        assert promoted["primary"] == (folder / "v.img").as_uri()
        clusters.wait(lambda: _is_fenced(volume))
    follower.close()
    assert _printed(source, "volume", "show", "v")["generation"] == promoted["generation"]
    generation = promoted["generation"]
    clusters.wait(lambda: _printed(site, "volume", "show", "v")["generation"] == generation)
    clusters.wait(lambda: _state(source) == "DETACHED")

    with open_volume("v", there) as volume:
        assert bytes(volume.pread(BLOCK, 5 * BLOCK)) == b"b" * BLOCK
        volume.pwrite(b"c" * BLOCK, 9 * BLOCK)
    clusters.wait(lambda: _known_writes(source) >= 3)
    former = ("rejoin", "v", "--site", "a", "--dir", str(clusters.folder / "site-a"), "--yes")
    assert not _printed(source, *former)["copies_all"]
    changed = _printed(source, "divergence", "v")
    assert changed["current"]["blocks"] >= 1


def _printed(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run a command, which must end with `code`; return the last JSON object that it prints."""
    done = run_cli(settings, *arguments)
    assert done.returncode == code, done.stderr + done.stdout
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def _is_fenced(volume: TrackedVolume) -> bool:
    """Return whether a host lets no write begin any more, because another copy was promoted."""
    try:
        volume.pwrite(b"late", 0)
    except MirrorlogError as error:
        assert FENCED in str(error), str(error)
        return True
    return False


def _end(settings: Settings, topic: str, partition: int) -> int:
    """Return where a partition ends."""
    admin = KafkaAdmin(settings.kafka_client())
    try:
        return admin.end_position(topic, partition)
    finally:
        admin.close()


def _trim(settings: Settings, topic: str, partition: int) -> None:
    """Delete all messages that a partition holds now, as retention does."""
    client = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    at = TopicPartition(topic, partition, _end(settings, topic, partition))
    for future in client.delete_records([at]).values():
        future.result(DEADLINE_S)


def _log_through(settings: Settings, partition: int) -> int:
    """Return through which position the log of a partition is complete."""
    reader, admin = KafkaReader(settings.kafka_client()), KafkaAdmin(settings.kafka_client())
    log = LogReader(reader, admin, settings.topics.changelog)
    log.follow_partition(partition)
    while not log.caught_up():
        log.poll(0.2)
    for client in (reader, admin):
        client.close()
    watermark = log.watermarks.get(partition)
    return -1 if watermark is None else watermark.through


def _known_writes(settings: Settings) -> int:
    """Return how many writes of the volume the log names."""
    return ask_kafka(settings, "v", AtOrigin(), AtEnd(), DEADLINE_S).writes


def _state(settings: Settings) -> str:
    """Return the state of the secondary as `mirrorlog status` shows it on a cluster."""
    shown = run_cli(settings, "status", "v")
    (row,) = [row for row in json.loads(shown.stdout)["volumes"] if row["site"] == "berlin"]
    return str(row["state"])


def _await_topics(site: Settings, clusters: TwoClusters) -> None:
    admin = KafkaAdmin(site.kafka_client())
    wanted = {site.topics.changelog, site.topics.volumes, site.topics.digests}
    prefix = site.topics.mirror_prefix + site.topic_prefix
    clusters.wait(lambda: wanted <= admin.names(prefix))
    admin.close()
