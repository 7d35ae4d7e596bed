"""A site on a cluster of its own, which the real MirrorMaker 2 fills from that of host and node."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from deadlines import DEADLINE_S
from mirrormaker import (
    MirrorMaker,
    documented_properties,
    mirrormaker_runtime,
    with_values,
)
from running import run_cli

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.broker.ports import choose_free
from mirrorlog.broker.runtime import Runtime
from mirrorlog.changed.ask import ask_kafka
from mirrorlog.changed.points import AtBarrier, AtEnd, AtOrigin
from mirrorlog.cli.demo.proof import ProgressFollower
from mirrorlog.cli.demo.run import Run
from mirrorlog.errors import BadUse, KafkaFailed
from mirrorlog.producers import open_volume
from mirrorlog.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZE = 1 << 20
BLOCK = 4096


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
        until = time.monotonic() + DEADLINE_S
        while not is_reached():
            assert time.monotonic() < until
            for run in (self.source, self.site):
                run.check()
            self.maker.check()
            time.sleep(0.1)

    def wait_proved(self, follower: ProgressFollower) -> None:
        """Wait until the site has proved all that the host has published; check that it's true."""
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
    """Yield both clusters with a volume `v`, the node, the site and MirrorMaker."""
    identity, exactly_once = request.param
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
        maker = stack.enter_context(MirrorMaker(tmp_path / "mm2", maker_runtime, properties))
        yield TwoClusters(source_run, site_run, maker, folder)


@pytest.mark.parametrize(
    "clusters",
    [(False, False), (True, True)],
    ids=["default names, at least once", "same names, exactly once"],
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


def _known_writes(settings: Settings) -> int:
    """Return how many writes of the volume the log names."""
    return ask_kafka(settings, "v", AtOrigin(), AtEnd(), DEADLINE_S).writes


def _state(settings: Settings) -> str:
    """Return the state of the secondary as `mirrorlog status` shows it on a cluster."""
    shown = run_cli(settings, "status", "v")
    (row,) = [each for each in json.loads(shown.stdout)["volumes"] if each["site"] == "berlin"]
    return str(row["state"])


def _await_topics(site: Settings, clusters: TwoClusters) -> None:
    admin = KafkaAdmin(site.kafka_client())
    wanted = {site.topics.changelog, site.topics.volumes, site.topics.digests}
    prefix = site.topics.mirror_prefix + site.topic_prefix
    clusters.wait(lambda: wanted <= admin.names(prefix))
    admin.close()
