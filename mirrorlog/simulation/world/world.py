"""World: one host, one node and one site, moved by a random generator with a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.consumers.resync.secondaries import TakenSnapshot
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, KafkaFailed, OutOfRetention
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import load_settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.world.checked_log import CheckedLog
from mirrorlog.simulation.world.crashes import Crash, Fuse
from mirrorlog.simulation.world.history_faults import HistoryFaults
from mirrorlog.simulation.world.host import BLOCK_BYTES, BLOCKS, SIZE_BYTES, HostModel
from mirrorlog.simulation.world.mirror import MirrorModel
from mirrorlog.simulation.world.node import NodeModel
from mirrorlog.simulation.world.site import SiteModel
from mirrorlog.simulation.world.site_faults import SiteFaults
from mirrorlog.tracking_log.keys import key_kind
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.tiers import TIERS

VOLUMES: Final = ("u", "v", "w")
GENERATION: Final = "11111111-1111-4111-8111-111111111111"
_TIERS_S: Final = (2, 6, 18)
_MAX_ROUNDS: Final = 200


class _BrokerClock(ManualClock):
    """The broker's clock: half a century ahead of everybody else's; each look takes 0.1 s."""

    def __init__(self) -> None:
        super().__init__(now_s=1_700_000_000.0)

    def now_us(self) -> int:
        self.now_s += 0.1
        return super().now_us()


class World:
    """One host, one node and one site with three volumes, in one partition.

    seed: two worlds with one seed take the same steps.
    losses: how often a command is lost, as a weight beside those in act().
    markers: how often a stranger's transaction ends in the topics, as such a weight.
    mirrored: the site has a cluster of its own, with a mirror of the topics (`mirror`).
    overrides: settings, by name.
    snapshots: by position, the volumes of which the site has taken a snapshot there, if
        use_snapshots() was called.

    A check that fails raises AssertionError.
    """

    def __init__(
        self,
        seed: int,
        losses: float = 0,
        markers: float = 0,
        *,
        mirrored: bool = False,
        **overrides: object,
    ) -> None:
        self._random, self._losses, self._markers = Random(seed), losses, markers
        keep_s = self._random.choice((dict.fromkeys(TIERS[:3], 0), {"second": 3, "minute": 9}, {}))
        own = {
            "site_copy_bytes": 4096,
            "site_chunk_bytes": 4 * 4096,
            "node_tiers_s": _TIERS_S,
            "node_keep_s": keep_s,
        }
        mirrors = {"kafka_mirrored_sites": ("",)} if mirrored else {}
        self.settings = load_settings(None, {**own, **mirrors, **overrides})
        self.broker = MemoryBroker(clock=_BrokerClock())
        topics = self.settings.topics
        self.broker.create(topics.specs(single_copy=True), 1)
        self.mirror: MirrorModel | None = None
        self.site_broker = self.broker
        if mirrored:
            self.site_broker = MemoryBroker("of the site", clock=_BrokerClock())
            for broker in (self.broker, self.site_broker):
                broker.create([*topics.specs(single_copy=True), *topics.mirror_specs()], 1)
            self.mirror = MirrorModel(self.broker, self.site_broker, self.settings, self._random)
        self.volumes = {name: _describe(name) for name in VOLUMES}
        for volume in self.volumes.values():
            self.publish_volume(volume)
        self.snapshots: Final[dict[int, set[str]]] = {}
        self._commands_seen: Final[dict[bytes, tuple[str, BlockSet]]] = {}
        self._checked_log = CheckedLog(self.broker, topics.changelog)
        self._is_closed = self._has_all_snapshots = False
        self._node_fuse, self._site_fuse = Fuse(), Fuse()
        self.host = HostModel(self.broker, self.settings, self.volumes, self._random)
        for name in self.volumes:
            self.host.send(name, CommandKind.SESSION_OPEN)
        self.node = NodeModel(self.broker, self.settings, self._node_fuse, self._random)
        self.site = self._open_site(self.broker.cluster_id() if mirrored else None)
        self.faults = SiteFaults(self.site, self._random)
        self._stale_node: NodeModel | None = None
        self.history_faults = HistoryFaults(
            self.broker,
            self.settings,
            self._random,
            host=self.host,
            node=self.node,
            site=self.site,
        )
        for primary in self.host.primaries.values():
            primary.hook = self._write_while_read

    def _open_site(self, mirror_of: str | None) -> SiteModel:
        """Return the world's site. mirror_of: as in SiteModel."""
        return SiteModel(
            self.site_broker,
            self.host,
            self.settings,
            self._site_fuse,
            self._random,
            mirror_of=mirror_of,
        )

    def publish_volume(self, volume: Volume) -> None:
        """Publish a description."""
        publisher = self.broker.publisher()
        publish_volume(publisher, self.settings.topics, volume)
        publisher.flush(1)

    def described(self, name: str) -> Volume:
        """Return the newest description of a volume."""
        catalog = Catalog(self.broker.reader(), self.broker, self.settings.topics, ManualClock())
        catalog.refresh()
        return catalog[name]

    def use_snapshots(self, *, always: bool = False) -> None:
        """Let the host take snapshots of its primaries for the site, some of which break.

        always: while its session is open it refuses none, and none breaks.
        """
        self._has_all_snapshots = always
        self.site.secondaries.snapshot = self._take_snapshot

    def _take_snapshot(self, volume: Volume) -> TakenSnapshot:
        """Take a snapshot, unless the host refuses it. The host writes on while it is read."""
        name = volume.volume
        is_away = self._is_closed or self.host.is_dead
        if is_away or (not self._has_all_snapshots and self._random.random() < 0.1):
            raise DeviceFailed("no snapshot: Kafka is away", where=name)
        device, export = self.host.take_snapshot(name)
        export = replace(export, history_id=self.node.history_id)
        self.snapshots.setdefault(export.position, set()).add(name)
        if self._has_all_snapshots:
            return TakenSnapshot(device.reopen(writable=False), export)
        lasts, lives = self._random.choice((0, 1, 3, 1000, 1000, 1000)), self.host.deaths

        def write_or_break(operation: str, *_: int) -> None:
            nonlocal lasts
            lasts -= 1
            is_gone = self._is_closed or self.host.is_dead or self.host.deaths > lives
            if lasts < 0 or is_gone:  # the host has no more room, or has ended
                raise DeviceFailed("the snapshot broke", where=f"{name}, offset 0")
            self._write_while_read(operation)

        device.hook = write_or_break
        return TakenSnapshot(device.reopen(writable=False), export)

    def hold_primaries_still(self) -> None:
        """Let the host write no more while the site reads."""
        for primary in self.host.primaries.values():
            primary.hook = None

    def _write_while_read(self, operation: str, *_: int) -> None:
        """Let the host write now and then while the site reads the primary."""
        if operation == "pread" and self._random.random() < 0.3:
            self.host.write()
            if self._random.random() < 0.5:
                self.host.publish(self.host.draw_volume())

    # Steps

    def act(self) -> None:
        """Take one step of one role, both drawn, then check what the site claims."""
        acts: dict[Callable[[], object], float] = {
            self.host.write: 30,
            lambda: self.host.publish(self.host.draw_volume()): 12,
            self.host.heartbeat: 5,
            self.host.lose: self._losses,
            self.run_node: 14,
            self.node.commit: 6,
            self.run_site: 14,
            self.maintain_node: 14,
            self._leave_stale_node: 0.5,
            self._maintain_stale_node: 6,
            self.compact_some: 1,
            self.add_markers: self._markers,
            **self._other_acts(),
        }
        self._random.choices(list(acts), list(acts.values()))[0]()
        self.site.check_consistency()

    def act_with_faults(self) -> None:
        """Take one step of one role, or let the world do something to the site, all drawn.

        Then check what the running site claims: the state that is saved may be out of date until
        the site meets the secondary again.
        """
        acts: dict[Callable[[], object], float] = {
            self.host.write: 30,
            lambda: self.host.publish(self.host.draw_volume()): 12,
            self.host.heartbeat: 8,
            self.run_node: 14,
            self.node.commit: 6,
            self.run_site: 40,
            self.faults.back_up: 2,
            self.faults.strike: 2,
            self.faults.mend: 2,
            self.faults.run_twice: 0.3,
        }
        self._random.choices(list(acts), list(acts.values()))[0]()
        self.site.check_claims()

    def act_with_history_faults(self) -> None:
        """Take one step of one role, or let the topics break, all drawn.

        Then check what the site claims and reports. A process that ends with an error is started
        again.
        """
        acts: dict[Callable[[], object], float] = {
            self.host.write: 30,
            lambda: self.host.publish(self.host.draw_volume()): 12,
            self.host.heartbeat: 8,
            self.follow_descriptions: 4,
            self.run_node: 14,
            self.restart_node: 1,
            self.node.commit: 6,
            self.run_site: 30,
            self.site.start: 1,
            self.maintain_node: 8,
            self.history_faults.note_ends: 2,
            self.history_faults.strike: 0.7,
            **self._other_acts(),
        }
        act = self._random.choices(list(acts), list(acts.values()))[0]
        try:
            act()
        except (OutOfRetention, KafkaFailed):
            self._node_fuse.put_out()
            self._site_fuse.put_out()
            self.restart_node() if act in (self.run_node, self.maintain_node) else self.site.start()
        self.site.check_reports()

    def _other_acts(self) -> dict[Callable[[], object], float]:
        """Return what a mirror does, with its weights; nothing without one."""
        if self.mirror is None:
            return {}
        return {
            self.mirror.run: 40,
            self.mirror.restart: 2,
            self.mirror.cut: 0.5,
            self.mirror.mend: 2,
            self._compact_mirror: 1,
        }

    def _compact_mirror(self) -> None:
        topic = self.settings.topics.changelog
        end = self.site_broker.end_position(topic, 0)
        self.site_broker.compact(
            topic, 0, self._random.choice((None, self._random.randint(0, end)))
        )

    def run_round(self) -> None:
        """Run one round of the site. Before it, a mirror brings all that there is."""
        if self.mirror is not None:
            self.mirror.mend()
            self.mirror_all()
        self.site.site.run_once(0)

    def mirror_all(self) -> None:
        """Let the mirror bring all that there is, both ways, with the node's answers."""
        assert self.mirror is not None
        self.mirror.drain()
        self.node.maintain()
        self.mirror.drain()

    def follow_descriptions(self) -> None:
        """Let the host read the descriptions of its volumes."""
        self.host.follow({name: self.described(name) for name in self.volumes})

    def restart_node(self) -> None:
        """Start the node again, until it holds the log against the topic without a crash."""
        for _ in range(_MAX_ROUNDS):
            self._node_fuse.light(self._random)
            try:
                self.node.start()
            except Crash:
                continue
            self._node_fuse.put_out()
            return

    def add_markers(self) -> None:
        """End a stranger's transaction in some topics: positions without a message."""
        topics = self.settings.topics
        for topic in (topics.commands, topics.changelog, topics.volumes):
            for _ in range(self._random.randint(0, 2)):
                self.broker.append_marker(topic, 0)

    def run_node(self) -> None:
        """Fold a batch. The node may crash in it."""
        self._node_fuse.light(self._random)
        try:
            self.node.fold(self._random.randint(1, 12))
        except Crash:
            if self._random.random() < 0.5:
                self.node.commit()  # Faust commits at times of its own
            self.node.start()
        self._node_fuse.put_out()

    def maintain_node(self) -> None:
        """Do a little compaction. The node may crash in it."""
        self._node_fuse.light(self._random)
        try:
            for _ in range(self._random.randint(1, 12)):
                self.node.maintain()
        except Crash:
            self.node.start()
        self._node_fuse.put_out()
        self.check_log()

    def run_site(self) -> None:
        """Run one round of the site. The site may crash in it."""
        self._site_fuse.light(self._random)
        try:
            self.site.site.run_once(0)
        except Crash:
            self.site.crash()
        self._site_fuse.put_out()

    def fold_and_commit(self) -> None:
        """Fold all commands, and commit after each batch."""
        while self.node.fold(50):
            self.node.commit()

    def compact(self, below: int | None = None) -> None:
        """Let the broker compact the changelog, up to a position."""
        self.broker.compact(self.settings.topics.changelog, 0, below)

    def compact_some(self) -> None:
        """Let the broker compact the changelog, up to a position that is drawn."""
        end = self.broker.end_position(self.settings.topics.changelog, 0)
        self.compact(self._random.choice((None, self._random.randint(0, end))))

    def _leave_stale_node(self) -> None:
        """Leave a worker that doesn't know that it has lost the partition."""
        self._stale_node = self.node.left_behind()

    def _maintain_stale_node(self) -> None:
        if self._stale_node is not None:
            for _ in range(self._random.randint(1, 12)):
                self._stale_node.maintain()
            self.check_log()

    def settle(self) -> None:
        """Run the site until it calls all secondaries consistent."""
        for _ in range(_MAX_ROUNDS):
            self.run_round()
            if self.site.is_consistent():
                return
        raise AssertionError(f"not consistent: {self._statuses()}")

    def finish(self) -> None:
        """End the host's session, then run node and site until all secondaries are consistent."""
        self._is_closed = True
        self.host.close()
        if self._markers:
            self.broker.append_marker(self.settings.topics.commands, 0)
        self.hold_primaries_still()
        self.fold_and_commit()
        for _ in range(_MAX_ROUNDS):
            self.run_round()
            self.site.check_consistency()
            if self.site.is_consistent() and self._site_has_read_all():
                return
        raise AssertionError(f"not consistent: {self._statuses()}")

    def finish_after_faults(self) -> None:
        """End the host's session. Then run the site until all secondaries equal their primaries.

        An operator mends what the site reports.
        """
        self.host.close()
        self.hold_primaries_still()
        self.fold_and_commit()
        for _ in range(_MAX_ROUNDS):
            if self._random.random() < 0.1:
                self.faults.mend()
            self.run_round()
            self.site.check_claims()
            if not self.site.seen_primaries and self.site.is_consistent():
                break
        else:
            raise AssertionError(f"not consistent: {self._statuses()}")
        for name in self.volumes:
            assert self.site.secondary_equals_primary(name), name

    def finish_after_history_faults(self) -> None:
        """End the host's session in the history that the node has, then let the site catch up."""
        self.hold_primaries_still()
        for _ in range(3):
            self.restart_node()
            self._fold_all()
            self.follow_descriptions()
            self.host.heartbeat()
        self.host.close()
        self._fold_all()
        self.site.start()
        for _ in range(_MAX_ROUNDS):
            try:
                self.run_round()
            except (OutOfRetention, KafkaFailed):
                self.site.start()
            self.site.check_reports()
            if self.site.is_consistent():
                break
        else:
            raise AssertionError(f"not consistent: {self._statuses()}")
        for name in self.volumes:
            assert self.site.secondary_equals_primary(name), name

    def _fold_all(self) -> None:
        """Fold all commands. A node that ends with an error is started again."""
        for _ in range(_MAX_ROUNDS):
            try:
                self.fold_and_commit()
            except (OutOfRetention, KafkaFailed):
                self.restart_node()
            else:
                return
        raise AssertionError("the node comes to no end")

    def _site_has_read_all(self) -> bool:
        """Return whether a site behind a mirror has read the log through the last watermark.

        Before that, a secondary that was consistent at an earlier position is so still.
        """
        if self.mirror is None:
            return True
        known, last = self.site.log.watermarks.get(0), self.read_log().watermarks.get(0)
        return last is None or (known is not None and known.through >= last.through)

    def _statuses(self) -> list[object]:
        return [secondary.status for secondary in self.site.site.secondaries.values()]

    # Checks

    def read_log(self) -> LogReader:
        """Read the whole changelog; return the reader."""
        return self._checked_log.read()

    def check_log(self) -> None:
        """Check that the log holds all that was folded, however far a roll-up came.

        After a history ended, the log holds what was folded since.
        """
        if self.history_faults.broken:
            return
        log = self.read_log()
        through = log.watermarks[0].through if log.watermarks else -1
        for name in self.volumes:
            assert log.logs[name].hole(after=-1, through=through) is None
            changed = log.logs[name].changed(after=-1, through=through)
            assert self.fold(name, through).issubset(changed)

    def check_end(self) -> None:
        """Check secondaries and log after finish(). No resync took a rung above CHANGED."""
        assert set(self.site.site.secondaries) == set(self.volumes)
        for name in self.volumes:
            assert self.site.secondary_equals_primary(name), name
            saved = self.site.states.load(name)
            assert saved is None or saved.rung is Rung.CHANGED, (
                f"{name}: the site found a hole where there is none"
            )
        end = self.broker.end_position(self.settings.topics.commands, 0) - 1
        log = self.read_log()
        for name in self.volumes:
            folded = self.fold(name)
            assert log.logs[name].hole(after=-1, through=end) is None
            assert log.logs[name].changed(after=-1, through=end) == folded
            assert _table_blocks(self.node, name) == folded
            assert name not in self.host.lost or len(folded) == BLOCKS

    def fold(self, name: str, through: int | None = None) -> BlockSet:
        """Return the blocks that commands named, through a position.

        It is independent of the node's fold: it takes one extent after the other.
        """
        blocks = BlockSet()
        for message in self.broker.messages(self.settings.topics.commands):
            if through is not None and message.position > through:
                break
            volume, named = self._named_blocks(message.value or b"")
            if volume == name:
                blocks |= named
        return blocks

    def _named_blocks(self, value: bytes) -> tuple[str, BlockSet]:
        """Return the volume of a command and the blocks that it names. Each is decoded once."""
        if value not in self._commands_seen:
            command, blocks = decode(value, TrackingCommand), BlockSet()
            for extent in command.extents:
                end = (extent.end + BLOCK_BYTES - 1) // BLOCK_BYTES
                blocks.add_range(extent.offset // BLOCK_BYTES, end)
            self._commands_seen[value] = (command.volume, blocks)
        return self._commands_seen[value]


def _describe(name: str) -> Volume:
    return Volume(
        volume=name,
        generation=GENERATION,
        size_bytes=SIZE_BYTES,
        block_size=BLOCK_BYTES,
        partition=0,
        origin_position=-1,
        initially_zeroed=True,
        primary=f"memory://{name}",
    )


def _table_blocks(node: NodeModel, name: str) -> BlockSet:
    blocks = BlockSet()
    for key, value in node.store.rows[0].items():
        if key_kind(key) is LogRecord and (record := decode(value, LogRecord)).volume == name:
            blocks |= record.changed
    return blocks
