"""Faust's table manager, with the node's own recovery in the place of Faust's.

docs/decisions/recovery.md says what Faust's own recovery does and why it is not used. The classes
override methods of faust-streaming 0.15.3 that are not all public.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import faust
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery

from mirrorlog.streams.engine import AbortProcess, TableRecovery


class ChangelogTableManager(TableManager):
    """Faust's tables, brought up to the changelog by a follower (`follow_changelog`)."""

    follower: TableRecovery
    abort: AbortProcess

    @property
    def recovery(self) -> Recovery:
        """Return the recovery service, which is made at the first call."""
        if self._recovery is None:
            self._recovery = _ChangelogRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


class _ChangelogRecovery(Recovery):
    """Keeps Faust's order of a rebalance, and gives Faust no partition to recover."""

    tables: ChangelogTableManager
    _standby_task: asyncio.Task[None] | None = None

    def add_active(self, table: Any, tp: Any) -> None:
        """Do nothing: the follower reads the partition."""

    def add_standby(self, table: Any, tp: Any) -> None:
        """Do nothing: the follower reads the partition."""

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Stop following, before anything else of a rebalance."""
        self._stop_standby()
        super().on_partitions_revoked(revoked)

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Recover the tables. Faust calls this at once, because it has nothing to recover itself.

        Cancelled if another rebalance begins. The order matters:

        1. The tables catch up with the changelog, and the standbys begin to follow it.
        2. Those that wait for the tables run: they find the positions to begin at.
        3. The consumer seeks to those positions, and drops what it fetched before.
        4. Only now are events handed on. Faust hands them on before step 3 and then drops some of
           them: that leaves a gap.
        """
        app: Any = self.app
        self._stop_standby()
        try:
            await self.tables.follower.catch_up(
                self._table_partitions(app.assignor.assigned_actives())
            )  # 1
        except Exception as error:  # noqa: BLE001
            self.tables.abort(error)
        if standbys := self._table_partitions(app.assignor.assigned_standbys()):
            self._standby_task = asyncio.create_task(
                self._stand_by(standbys), name="mirrorlog-standby"
            )
        await app.on_rebalance_complete.send()  # 2
        self._set_recovery_ended()
        for table in self.tables.values():
            await table.on_recovery_completed(set(), set())
        if app.consumer_generation_id != generation_id:
            return  # another rebalance has begun, and comes here too
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
        """Stop following together with the worker."""
        self._stop_standby()
        await super().on_stop()

    async def _stand_by(self, partitions: Sequence[int]) -> None:
        """Follow the changelog until cancelled; an error that isn't known ends the process."""
        try:
            await self.tables.follower.stand_by(partitions)
        except Exception as error:  # noqa: BLE001
            self.tables.abort(error)

    def _stop_standby(self) -> None:
        if self._standby_task is not None:
            self._standby_task.cancel()
            self._standby_task = None

    def _table_partitions(self, tps: Any) -> list[int]:
        """Return the numbers of those partitions that are of the changelog, in order."""
        return sorted(tp.partition for tp in tps if tp.topic in self.tables.changelog_topics)


def follow_changelog(app: faust.App, follower: TableRecovery, abort: AbortProcess) -> None:
    """Let `follower` recover the app's tables. Call it before the app starts.

    abort: ends the process when the follower fails.
    """
    tables: Any = app.tables
    tables.follower, tables.abort = follower, abort
