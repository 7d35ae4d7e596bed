"""The node, with an end: at one point of the first flush that reaches a position it commits what it may, and is killed.

    python doomed_node.py POINT PARTITION POSITION

Only ports of the product are wrapped: what is sent, the store, the consumer that commits.
"""

from __future__ import annotations

import contextvars
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

# In the order in which a flush passes them (LogTable.flush).
POINTS = (
    "planned",
    "put aside",
    "records half sent",
    "records in the changelog",
    "watermark in the changelog",
    "rows in the table, its position not",
    "rows in the table",
    "answered",
    "gate open",
    "committed",
)
_AFTER_SEND = ("put aside", "records in the changelog", "watermark in the changelog", "answered")


class Doom:
    """The point that is waited for, and the flush that is doomed: `sent` counts what it has sent, in that flush alone."""

    def __init__(self, point: str, partition: int, position: int) -> None:
        self.point, self.partition, self.position = point, partition, position
        self.sent: contextvars.ContextVar[int | None] = contextvars.ContextVar("sent", default=None)
        self.consumer: Any = None

    def is_doomed(self, plan: Any) -> bool:
        return bool(
            plan.flush_range.partition == self.partition and plan.flush_range.last >= self.position
        )

    def die(self) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")

    async def reach(self, point: str) -> None:
        """The worst moment: whatever may be committed by now is, but where the gate has only just opened."""
        if point != self.point:
            return
        self.sent.set(None)
        if point != "gate open":
            # Twice: the first may only wait for one that had begun before.
            await self.consumer.commit()
            await self.consumer.commit()
        self.die()

    async def send(self, send: Any, messages: Sequence[Any]) -> Any:
        number = self.sent.get()
        if number is None:
            return await send(messages)
        self.sent.set(number + 1)
        if number == 1 and self.point == "records half sent":
            await send(messages[: len(messages) // 2])
            await self.reach("records half sent")
        if number == 3:
            await self.reach("rows in the table")
        positions = await send(messages)
        await self.reach(_AFTER_SEND[number])
        return positions

    async def flush(self, flush: Any, plan: Any) -> None:
        if not self.is_doomed(plan):
            return await flush(plan)  # type: ignore[no-any-return]
        self.sent.set(0)
        await self.reach("planned")
        await flush(plan)
        await self.reach("gate open")
        await self.reach("committed")


def wrap(doom: Doom) -> None:
    """Puts the doom between the node's parts."""
    from faust.stores.rocksdb import Store

    from mirrorlog.streams import wiring
    from mirrorlog.streams.faust_worker.gated_transport import GatedConsumer

    made, set_persisted_offset = GatedConsumer.__init__, Store.set_persisted_offset

    class Table(wiring.LogTable):
        def __init__(self, send: Any, *more: Any) -> None:
            super().__init__(lambda messages: doom.send(send, messages), *more)

        async def flush(self, plan: Any) -> None:
            await doom.flush(super().flush, plan)

    def remember(self: GatedConsumer, *given: Any, **named: Any) -> None:
        doom.consumer = self
        made(self, *given, **named)

    def position_not(self: Store, tp: Any, offset: int) -> None:
        if doom.point == "rows in the table, its position not" and doom.sent.get() is not None:
            doom.die()
        set_persisted_offset(self, tp, offset)

    wiring.LogTable = Table  # type: ignore[misc]
    GatedConsumer.__init__ = remember  # type: ignore[method-assign]
    Store.set_persisted_offset = position_not


def main() -> None:
    """Runs the node."""
    doom = Doom(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    sys.argv = ["mirrorlog", "--json", "node"]  # which `import faust` reads
    wrap(doom)
    from mirrorlog.cli.main import main as mirrorlog

    mirrorlog()


if __name__ == "__main__":
    main()
