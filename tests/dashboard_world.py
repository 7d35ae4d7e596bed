"""A world in memory that a dashboard shows: many volumes, a few sites, and what can go wrong.

One volume, WRITTEN, has commands and a log, so that its writes and changes can be asked for. All
others have descriptions and reports alone.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from typing import Final

import notation
from deadlines import DEADLINE_S
from logs import Log
from reports import HOST, LEASE, NODE

from mirrorlog.adapters.http.access import HttpAccess
from mirrorlog.adapters.listening import ListeningWords, listen_at
from mirrorlog.changed.logs import TopicLogSource
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.codec.events import encode
from mirrorlog.consumers.dashboard.topic_looks import LookPorts
from mirrorlog.consumers.dashboard.wiring import Dashboard
from mirrorlog.domain.commands import Quarantined
from mirrorlog.domain.reports import HostState, NodePartitionState, PartitionReport
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.verifications import VerificationReport, VerificationState
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.catalog import Catalog
from mirrorlog.simulation.memory_broker import MemoryBroker

WRITTEN: Final = "pg-orders-01"
SITES: Final = ("berlin", "oslo", "dublin")
BLOCK: Final = 4096
_KINDS: Final = ("pg-orders", "pg-users", "vm-web", "vm-build", "mail-spool", "k8s-pvc", "home")
_GIB: Final = 1 << 30
_BEAT_S: Final = 1.0
_WELL: Final = {
    "state": SiteState.CONSISTENT,
    "rung": Rung.CHANGED,
    "behind_blocks": 0,
    "behind_bytes": 0,
    "lag_s": 0.0,
}


def volume_names(count: int) -> list[str]:
    """Return so many names, WRITTEN among them."""
    return [
        f"{_KINDS[number % len(_KINDS)]}-{number // len(_KINDS) + 1:02}" for number in range(count)
    ]


@dataclass
class DashboardWorld:
    """The topics of a world, and the dashboard's ports to them.

    history: whether WRITTEN has an hour of writes. token: with which the page is seen.
    """

    volumes: int = 40
    history: bool = True
    seed: int = 1
    token: str = ""
    sites: tuple[str, ...] = SITES
    log: Log = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.now_us = SystemClock().now_us()
        sizes = (16, 32, 64, 100, 250, 500, 1024)
        described = [
            replace(
                notation.volume(name, size_bytes=sizes[number % len(sizes)] * _GIB),
                primary=f"nbds://storage-{number % 6 + 1}.example/{name}",
                created_at_us=self.now_us - 90 * 86_400_000_000,
                group="shop" if name.startswith(("pg-orders", "pg-users")) and number < 8 else None,
            )
            for number, name in enumerate(volume_names(self.volumes))
        ]
        self.log = Log(described)
        if self.history:
            self._write_an_hour()
        self.log.broker.clock = SystemClock()
        self.names = [volume.volume for volume in described]
        for number, site in enumerate(self.sites):
            for name in self.names:
                self.report(site, name)
            self.lease(site, term=number + 1)
        self._report_parts()

    @property
    def broker(self) -> MemoryBroker:
        """The broker of all topics."""
        return self.log.broker

    def report(self, site: str, volume: str, **more: object) -> None:
        """Let a site report on a volume; by default that it is consistent at a position."""
        now_us = SystemClock().now_us()
        position = self.log.through
        fields = {
            **_WELL,
            "applied_position": position,
            "consistent_position": position,
            "watermark": position,
            "last_applied_at_us": now_us - 4_000_000,
            "at_us": now_us,
        }
        progress = notation.site_progress(site=site, volume=volume, **(fields | more))
        self.broker.append(
            self.log.topics.progress, 0, f"{site}/{volume}".encode(), encode(progress)
        )

    def lease(self, site: str, term: int = 1, **more: object) -> None:
        """Let a site say that it runs."""
        lease = replace(
            LEASE,
            site=site,
            term=term,
            host=f"{site}-1",
            pid=4100 + term,
            started_at_us=self.now_us - 3_000_000_000,
            caught_up_age_s=0.2,
            **more,  # type: ignore[arg-type]
        )
        self.broker.append(self.log.topics.progress, 0, f"{site}/".encode(), encode(lease))

    def trouble(self) -> None:
        """Let a few secondaries be as they are on a busy day."""
        names = self.names
        behind = {"behind_blocks": 3500, "behind_bytes": 3500 * BLOCK}
        self.report(
            "oslo",
            names[2],
            state=SiteState.SYNCING,
            consistent_position=None,
            behind_blocks=12_000_000,
            behind_bytes=12_000_000 * BLOCK,
            lag_s=41.0,
            rate_bytes_s=212.0 * (1 << 20),
            eta_s=214.0,
        )
        self.report(
            "berlin",
            names[4],
            state=SiteState.STOPPED,
            behind_blocks=None,
            behind_bytes=None,
            lag_s=None,
            reason="the secondary is full: no space left on device.",
            next_action="Give it room; the site goes on by itself.",
        )
        self.report(
            "dublin",
            names[9],
            state=SiteState.SYNCING,
            rung=Rung.FULL,
            consistent_position=None,
            behind_blocks=30 * _GIB // BLOCK,
            behind_bytes=30 * _GIB,
            lag_s=None,
            rate_bytes_s=88.0 * (1 << 20),
            eta_s=349.0,
            reason="the log no longer reaches back to the applied position",
        )
        for name in names[11:14]:
            self.report("oslo", name, **(behind | {"lag_s": self.random.uniform(0.4, 4)}))
        self.report("dublin", names[16], **(behind | {"lag_s": 95.0}))
        self.report("berlin", names[18], state=SiteState.SETTLING, consistent_position=None)

    def neglect(self) -> None:
        """Let no worker have the partition, no site mirror a volume, and a report be damaged."""
        topics = self.log.topics
        self.broker.append(topics.reports, 0, b"node/node-storage-1", None)
        self.broker.append(topics.reports, 0, b"host/damaged/v", b"\xff")
        alone = notation.volume("alone", secondaries={"lisbon": "file:///alone.img"})
        self.broker.append(topics.volumes, 0, b"alone", encode(alone))

    def host(self, volume: str, state: HostState = HostState.OPEN) -> None:
        """Let a host report on a volume that it has open."""
        report = replace(
            HOST,
            host=f"storage-{len(volume) % 6 + 1}",
            volume=volume,
            state=state,
            session=f"s-{volume}",
            is_whole_volume_hot=False,
            spool_bytes=0,
            spool_limit_bytes=256 << 20,
            forks=(),
        )
        self.broker.append(self.log.topics.reports, 0, report.key, encode(report))

    def verify(self, site: str, volume: str, reached: float, different: int = 0) -> None:
        """Let a verification of a secondary report how far it is. reached: a fraction."""
        described = self.log.volumes[volume]
        now_us = SystemClock().now_us()
        report = VerificationReport(
            verification=notation.GENERATION,
            site=site,
            volume=volume,
            generation=described.generation,
            state=VerificationState.RUNNING,
            algorithm="XXH3_128",
            primary_reader="SITE",
            size_bytes=described.size_bytes,
            range_bytes=1 << 20,
            started_at_us=now_us - 300_000_000,
            at_us=now_us,
            reached_bytes=int(described.size_bytes * reached),
            confirmed_bytes=int(described.size_bytes * reached),
            different_blocks=different,
        )
        self.broker.append(
            self.log.topics.verifications, 0, f"{site}/{volume}".encode(), encode(report)
        )

    def refuse(self, reason: str, text: str, key: bytes, value: bytes, position: int = 7) -> None:
        """Let the node put an event into the quarantine."""
        event = Quarantined(
            partition=0,
            position=position,
            reason=reason,
            text=text,
            at_us=SystemClock().now_us(),
            key=key,
            value=value,
        )
        self.broker.append(self.log.topics.quarantine, 0, key, encode(event))

    def ports(self) -> LookPorts:
        """Return the ports of the dashboard's looks."""
        return LookPorts(
            open_reader=self.broker.reader,
            admin=self.broker,
            topics=self.log.topics,
            clock=SystemClock(),
        )

    def query_ports(self) -> QueryPorts:
        """Return the ports of a question about a volume."""
        log, clock = self.log, SystemClock()
        catalog = Catalog(log.broker.reader(), log.broker, log.topics, clock)
        logs = TopicLogSource(log.broker.reader, log.broker, log.topics.changelog, clock)
        return QueryPorts(log.broker.reader, log.broker, catalog, log.topics, clock, logs)

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve the dashboard in a thread, while the sites go on to live; yield its address."""
        access = HttpAccess(self.token)
        open_ports = lambda: nullcontext(self.query_ports())  # noqa: E731
        dashboard = Dashboard(self.ports(), open_ports, access, SystemClock())
        words = ListeningWords(who="the dashboard", option="--listen", token="")
        stop, ready, urls = Event(), Event(), list[str]()

        def on_ready(url: str) -> None:
            urls.append(url)
            ready.set()

        def run() -> None:
            with listen_at("127.0.0.1:0", words, is_guarded=False) as listening:
                asyncio.run(dashboard.serve(listening, stop.is_set, on_ready))

        def beat() -> None:
            while not stop.wait(_BEAT_S):
                for number, site in enumerate(self.sites):
                    self.lease(site, term=number + 1)

        threads = [Thread(target=run), Thread(target=beat)]
        for thread in threads:
            thread.start()
        try:
            assert ready.wait(DEADLINE_S)
            yield urls[0]
        finally:
            stop.set()
            for thread in threads:
                thread.join(DEADLINE_S)
                assert not thread.is_alive()

    def _write_an_hour(self) -> None:
        """Write to WRITTEN for an hour: a log in front, tables behind, a backup in the middle."""
        draw, size = self.random, self.log.volumes[WRITTEN].size_bytes
        begin_s = self.now_us / 1e6 - 3590
        wal = 0
        for step in range(718):
            second = begin_s + step * 5
            busy = 0.35 + 0.65 * math.sin(step / 718 * math.pi * 3) ** 2
            writes = []
            for _ in range(int(3 + 22 * busy)):
                wal = (wal + 65536) % (size // 16)
                writes.append(f"{wal}+65536")
            for _ in range(int(2 + 18 * busy * draw.random())):
                place = (
                    min(abs(draw.gauss(0.34, 0.05)), 0.97)
                    if draw.random() < 0.7
                    else draw.random() * 0.97
                )
                writes.append(
                    f"{int(place * size) // BLOCK * BLOCK}+{draw.choice((4096, 8192, 65536))}"
                )
            if 300 < step < 380:
                first = int((0.6 + (step - 300) / 80 * 0.3) * size) // BLOCK * BLOCK
                writes += [f"{first + part * (1 << 22)}+{1 << 22}" for part in range(6)]
            at_us = int(second * 1e6)
            self.log.publish(
                [
                    notation.command(
                        " ".join(writes),
                        WRITTEN,
                        sequence=step,
                        host="storage-1",
                        first_at_us=at_us - 90_000,
                        last_at_us=at_us,
                    )
                ]
            )
            if step % 6 == 5:
                self.log.flush(6)
        self.log.flush(6)

    def _report_parts(self) -> None:
        for name in self.names[:600]:
            self.host(name)
        node = replace(
            NODE,
            node="node-storage-1",
            is_over=False,
            partitions=(
                PartitionReport(
                    partition=0,
                    state=NodePartitionState.RUNNING,
                    recorded_through=self.log.through,
                    commands_end=self.log.through + 1,
                    behind_commands=0,
                    lag_s=0.0,
                    table_bytes=31 << 20,
                ),
            ),
        )
        self.broker.append(self.log.topics.reports, 0, node.key, encode(node))
