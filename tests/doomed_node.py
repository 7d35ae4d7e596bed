"""A node that kills itself at one point of the first flush that reaches a position.

    python doomed_node.py POINT PARTITION POSITION

Before that it commits all that it may commit. Only ports of the product are wrapped: what is sent,
the store, and the consumer that commits.
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
    """Knows at which point the node dies, and in which flush.

    sent: how many sends the doomed flush has made; None outside of it.
    """

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
        """Die if this is the point. All that may be committed is committed before, unless the gate
        has only just opened: that is the worst moment."""
        if point != self.point:
            return
        self.sent.set(None)
        if point != "gate open":
            # Twice: the first call may only wait for a commit that began before.
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
    """Put `doom` between the node's parts."""
    from faust.stores.rocksdb import Store

    from mirrorlog.streams import wiring
    from mirrorlog.streams.faust_worker.gated_transport import GatedConsumer

    make_consumer, set_persisted_offset = GatedConsumer.__init__, Store.set_persisted_offset

    class Table(wiring.LogTable):
        def __init__(self, send: Any, *arguments: Any) -> None:
            super().__init__(lambda messages: doom.send(send, messages), *arguments)

        async def flush(self, plan: Any) -> None:
            await doom.flush(super().flush, plan)

    def remember(self: GatedConsumer, *given: Any, **named: Any) -> None:
        doom.consumer = self
        make_consumer(self, *given, **named)

    def position_not(self: Store, tp: Any, offset: int) -> None:
        if doom.point == "rows in the table, its position not" and doom.sent.get() is not None:
            doom.die()
        set_persisted_offset(self, tp, offset)

    wiring.LogTable = Table  # type: ignore[misc]
    GatedConsumer.__init__ = remember  # type: ignore[method-assign]
    Store.set_persisted_offset = position_not


def main() -> None:
    """Run the node."""
    doom = Doom(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    sys.argv = ["mirrorlog", "--json", "node"]  # before wrap(): `import faust` reads it
    wrap(doom)
    from mirrorlog.cli.main import main as mirrorlog

    mirrorlog()


if __name__ == "__main__":
    main()
