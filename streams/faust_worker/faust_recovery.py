"""Faust's table manager and recovery service, with mirrorlog's follower in the place of Faust's recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery

from mirrorlog.streams.table.changelog_follower import ChangelogFollower


class ChangelogTableManager(TableManager):
    """Faust's tables, with the follower in the place of Faust's recovery. follower, abort: set before the app starts."""

    follower: ChangelogFollower
    abort: Callable[[BaseException], None]

    @property
    def recovery(self) -> Recovery:
        """The recovery service."""
        if self._recovery is None:
            self._recovery = _ChangelogRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


class _ChangelogRecovery(Recovery):
    """Faust's order of a rebalance, without partitions that it would recover itself."""

    tables: ChangelogTableManager
    _standing_by: asyncio.Task[None] | None = None

    def add_active(self, table: Any, tp: Any) -> None:
        """Not Faust's."""

    def add_standby(self, table: Any, tp: Any) -> None:
        """Not Faust's."""

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Before anything else of a rebalance."""
        self._stop_standing_by()
        super().on_partitions_revoked(revoked)

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Faust has nothing to recover: now the tables are. Cancelled where another rebalance begins.

        1. The tables catch up, and standbys begin to follow.
        2. Whoever waits for the tables is told: the positions to begin at are known then.
        3. The consumer goes to those positions, and what was fetched before is dropped.
        4. Only now events are handed on. (Faust hands them on before 3, and drops what comes between: a gap.)
        """
        app: Any = self.app
        self._stop_standing_by()
        try:
            await self.tables.follower.catch_up(
                self._of_tables(app.assignor.assigned_actives())
            )  # 1
        except Exception as error:  # noqa: BLE001
            self.tables.abort(error)
        if standbys := self._of_tables(app.assignor.assigned_standbys()):
            self._standing_by = asyncio.create_task(
                self._stand_by(standbys), name="mirrorlog-standby"
            )
        await app.on_rebalance_complete.send()  # 2
        self._set_recovery_ended()
        for table in self.tables.values():
            await table.on_recovery_completed(set(), set())
        if app.consumer_generation_id != generation_id:
            return  # another rebalance begins this anew
        assignment = app.consumer.assignment()
        if assignment:
            await self._wait(
                app.consumer.perform_seek(), timeout=app.conf.broker_request_timeout
            )  # 3
        app.flow_control.resume()
        commands = {tp for tp in assignment if tp.topic not in self.tables.changelog_topics}
        app.consumer.resume_partitions(commands)  # 4
        app.consumer.resume_flow()
        await app._fetcher.maybe_start()
        self.completed.set()
        self.tables.on_actives_ready()
        self.tables.on_standbys_ready()
        app.on_rebalance_end()

    async def on_stop(self) -> None:
        """With the worker."""
        self._stop_standing_by()
        await super().on_stop()

    async def _stand_by(self, partitions: Sequence[int]) -> None:
        try:
            await self.tables.follower.stand_by(partitions)
        except Exception as error:  # noqa: BLE001
            self.tables.abort(error)

    def _stop_standing_by(self) -> None:
        if self._standing_by is not None:
            self._standing_by.cancel()
            self._standing_by = None

    def _of_tables(self, tps: Any) -> list[int]:
        return sorted(tp.partition for tp in tps if tp.topic in self.tables.changelog_topics)
