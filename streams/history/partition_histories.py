"""PartitionHistories: holds the log against the commands topic, and renews a history that ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from secrets import randbelow
from typing import Final, Protocol
from uuid import uuid4

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.histories import NO_EPOCH, History
from mirrorlog.domain.volumes import Volume, in_history
from mirrorlog.errors import OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.reading.clusters import ClusterCheck
from mirrorlog.streams.history.evidence import (
    AssignedPartition,
    KnownWatermark,
    ended_reason,
    unbroken_through,
)
from mirrorlog.streams.history.renewal import (
    NewHistory,
    RenewalPorts,
    renew_history,
    renewed,
)
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.tracking_log.breaks import CommandsNow, break_reason
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.keys import (
    above_prefix,
    head_key,
    position_times_prefix,
    watermark_key,
)

log = logging.getLogger("mirrorlog.node")

_FIRST_EPOCH: Final = 1
_EPOCH_STEPS: Final = 1 << 20
"""A renewal goes on by up to so many epochs, which are drawn."""


class CommandsTopic(Protocol):
    """The commands topic as it is asked about here. Every call blocks."""

    def cluster_id(self) -> str:
        """Return the id of the cluster."""

    def commands_now(self, partition: int, position: int) -> CommandsNow:
        """Return the partition's bounds, and the digest of the command at `position`."""

    def anchor_at(self, partition: int, position: int) -> bytes | None:
        """Return the digest of the command at `position`, None if none is kept there."""


class PartitionHistories:
    """The histories of the partitions that this worker has. Call it from the event loop.

    renewals: how often it has renewed a history.
    """

    def __init__(
        self,
        ports: RenewalPorts,
        commands: CommandsTopic,
        clock: Clock,
        draw: Callable[[int], int] = randbelow,
    ) -> None:
        """draw: returns a number from 0 on below its argument, at random."""
        self._ports, self._commands, self._clock = ports, commands, clock
        self._draw: Final = draw
        self._cluster = ClusterCheck(commands)
        self.renewals = 0

    async def enter(self, partition: int) -> int | None:
        """Hold the log of an assigned partition against the commands topic (ended_reason).

        Call it before the partition's commands are folded, with a catalog that is up to date.

        Return None if the history goes on. Otherwise it is renewed, and the result is the position
        at which the new one begins: the commands from there on are folded. A log without a history
        gets its first one here, and a volume that names none is described with it.

        Raise WrongCluster if the log is a mirror of another cluster's.
        """
        watermark = self._ports.table.watermark(partition)
        if watermark is not None:
            await asyncio.to_thread(self._cluster.check_watermark, watermark)
        discarded = self._discarded_watermark(partition)
        volumes = self._volumes(partition)
        now = await asyncio.to_thread(
            self._commands.commands_now, partition, watermark.through if watermark else -1
        )
        facts = AssignedPartition(
            of_log=KnownWatermark(watermark, now) if watermark else None,
            of_discarded=await self._known(discarded),
            newest_epoch=self._newest_epoch(partition),
            replaced=self._replaced(partition),
            topic=now.topic,
            first_kept=now.first_kept,
            end=now.end,
            volumes=volumes,
        )
        if reason := ended_reason(facts):
            return await self.renew(partition, reason)
        if watermark is None or watermark.history is None:
            watermark = await self._begin(partition, watermark, now)
        await self._adopt(watermark, volumes)
        self._ports.table.forget_discarded(partition)
        return None

    async def doubt(self, partition: int) -> str | None:
        """Return what shows that the history ended since the last flush; None if nothing does.

        It costs a few requests to the broker. Call it where the broker may have gone back in time
        unseen, after a pause in which nothing came from it; and where others appended rows to the
        log. Raise as check_not_renewed().
        """
        watermark = self._ports.table.watermark(partition)
        if watermark is None or watermark.history is None:
            return None
        now = await asyncio.to_thread(self._commands.commands_now, partition, watermark.through)
        await self.check_not_renewed(partition)
        return break_reason(watermark, now)

    async def check_not_renewed(self, partition: int) -> None:
        """Raise OutOfRetention if volumes are described in a later history than that of the log.

        Another worker has renewed the history, then: this one has lost the partition, or the other
        had. If each of them renewed it once more, they might never come to an end. So the worker
        stops, and whoever is assigned the partition next finds the same, and renews it (enter).
        """
        await asyncio.to_thread(self._ports.catalog.refresh)
        watermark = self._ports.table.watermark(partition)
        epoch = NO_EPOCH if watermark is None else watermark.epoch
        if later := [v.volume for v in self._volumes(partition) if v.epoch > epoch]:
            raise OutOfRetention(
                f"another worker renewed the history of the partition: {', '.join(later[:5])} are "
                "described in a later one than the log's",
                where=f"partition {partition}, epoch {epoch}",
                next="Start this worker again. It renews the history if it has the partition then.",
            )

    async def renew(self, partition: int, reason: str) -> int:
        """Renew the history of the partition; return the position at which the new one begins.

        reason: what showed that the history ended, for the operator.

        It begins behind the last position whose command is known to be the one that was recorded.
        So every command that may be new is folded: a session that began there is then known, and no
        site settles without it. If heads were replaced (AssignedPartition.replaced), it begins with
        the oldest command that is kept: nobody knows which sessions they named.
        """
        table = self._ports.table
        watermark, discarded = table.watermark(partition), self._discarded_watermark(partition)
        known = [note for note in (watermark, discarded) if note is not None]
        now = await asyncio.to_thread(
            self._commands.commands_now, partition, watermark.through if watermark else -1
        )
        notes = [] if self._replaced(partition) else [*known, *self._position_times(partition)]
        start, anchor = await asyncio.to_thread(self._restart_position, partition, notes, now)
        epochs = [
            self._newest_epoch(partition),
            *(volume.epoch for volume in self._volumes(partition)),
        ]
        history = History(
            cluster=await asyncio.to_thread(self._commands.cluster_id),
            topic=now.topic,
            epoch=max(epochs) + 1 + self._draw(_EPOCH_STEPS),
            id=str(uuid4()),
        )
        log.error(
            "partition %d: %s. Its history is renewed: epoch %d begins at position %d, %d volumes "
            "get a new generation, and their sites copy them in full",
            partition,
            reason,
            history.epoch,
            start,
            len(self._volumes(partition)),
        )
        new = NewHistory(
            partition=partition,
            history=history,
            start=start,
            anchor=anchor,
            at_us=self._clock.now_us(),
        )
        await renew_history(self._ports, new)
        self.renewals += 1
        return start

    def _restart_position(
        self, partition: int, known: Sequence[Watermark], now: CommandsNow
    ) -> tuple[int, bytes | None]:
        """Return where the next history begins, and the digest of the command before that.

        known: watermarks and position times of the history that ended.
        """
        notes = [
            note for note in known if note.history is not None and note.history.topic == now.topic
        ]
        anchors = partial(self._commands.anchor_at, partition)
        through = unbroken_through(notes, anchors, first_kept=now.first_kept, end=now.end)
        is_kept = now.first_kept <= through < now.end
        return through + 1, anchors(through) if is_kept else None

    def _position_times(self, partition: int) -> list[Watermark]:
        table, prefix = self._ports.table, position_times_prefix(partition)
        keys = table.keys(partition, prefix, above_prefix(prefix))
        return [decode(table.get(partition, key) or b"", Watermark) for key in keys]

    async def _known(self, watermark: Watermark | None) -> KnownWatermark | None:
        if watermark is None:
            return None
        now = await asyncio.to_thread(
            self._commands.commands_now, watermark.partition, watermark.through
        )
        return KnownWatermark(watermark, now)

    async def _begin(
        self, partition: int, watermark: Watermark | None, now: CommandsNow
    ) -> Watermark:
        """Give the log of the partition a history, and return its watermark.

        watermark: of a log that names no history. None: there is no log. If there was one, the
        volumes' descriptions name its history: the log is folded again in that history, because
        nothing shows that a position means something else now.
        """
        described = next((v for v in self._volumes(partition) if v.history_id), None)
        history = History(
            cluster=await asyncio.to_thread(self._commands.cluster_id),
            topic=now.topic,
            epoch=described.epoch if described else _FIRST_EPOCH,
            id=str(described.history_id if described else uuid4()),
        )
        if watermark is None:
            begun = Watermark(
                partition=partition,
                through=now.first_kept - 1,
                at_us=self._clock.now_us(),
                history=history,
            )
        else:
            begun = replace(watermark, history=history, anchor=now.anchor)
            log.warning(
                "partition %d: an older node wrote the log; its history has the id %s from now on",
                partition,
                history.id,
            )
        row = (watermark_key(partition), encode(begun))
        await self._ports.table.append(partition, [row])
        return begun

    async def _adopt(self, watermark: Watermark, volumes: Sequence[Volume]) -> None:
        """Describe the volumes that don't name the history of the watermark with it.

        If the log is lost later, their descriptions show that there was one. A description of an
        earlier history was published late, by a worker that had lost the partition, and took the
        place of a newer one: the volume's log begins again, in a new generation.
        """
        history = watermark.history
        assert history is not None
        new = NewHistory(
            partition=watermark.partition,
            history=history,
            start=watermark.through + 1,
            anchor=None,
            at_us=self._clock.now_us(),
        )
        adopted = [
            in_history(volume, history) if volume.history_id is None else renewed(volume, new)
            for volume in volumes
            if volume.history_id != history.id
        ]
        topic = self._ports.topics.volumes
        await self._ports.send(
            [Outgoing(topic, 0, volume.volume.encode(), encode(volume)) for volume in adopted]
        )
        for volume in adopted:
            self._ports.catalog.take(volume)

    def _discarded_watermark(self, partition: int) -> Watermark | None:
        value = self._ports.table.discarded(partition).get(watermark_key(partition))
        return None if value is None else decode(value, Watermark)

    def _newest_epoch(self, partition: int) -> int:
        """Return the highest epoch in the partition's rows and in discarded tables; 0 for none."""
        names, table = [volume.volume for volume in self._volumes(partition)], self._ports.table
        discarded = table.discarded(partition)
        values = [discarded[key] for name in names if (key := head_key(name)) in discarded]
        rows: list[VolumeHead | Watermark | None] = [
            table.watermark(partition),
            self._discarded_watermark(partition),
            *table.heads(partition, names).values(),
            *(decode(value, VolumeHead) for value in values),
        ]
        return max((row.epoch for row in rows if row is not None), default=0)

    def _replaced(self, partition: int) -> list[str]:
        """Return the volumes whose head is of an earlier history than the watermark, by name."""
        watermark, table = self._ports.table.watermark(partition), self._ports.table
        if watermark is None:
            return []
        heads = table.heads(partition, [volume.volume for volume in self._volumes(partition)])
        return sorted(
            name for name, head in heads.items() if NO_EPOCH < head.epoch < watermark.epoch
        )

    def _volumes(self, partition: int) -> list[Volume]:
        return [volume for volume in self._ports.catalog.values() if volume.partition == partition]
