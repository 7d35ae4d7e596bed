"""The node, with an end: at one point of the first flush that reaches a position it commits what it may, and is killed.

    python doomed_node.py POINT PARTITION POSITION

Only ports of the product are wrapped: what is sent, the store, and what the consumer commits.
"""

from __future__ import annotations

import contextvars
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

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
_AFTER_SEND = {0: "put aside", 1: "records in the changelog", 2: "watermark in the changelog", 3: "answered"}


def main() -> None:
    """Runs the node."""
    wanted, partition, position = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sys.argv = ["mirrorlog", "--json", "node"]
    from faust.stores.rocksdb import Store

    from mirrorlog.cli.main import main as mirrorlog
    from mirrorlog.streams import app as parts
    from mirrorlog.streams.gated_transport import GatedConsumer

    sends: contextvars.ContextVar[int | None] = contextvars.ContextVar("sends", default=None)
    consumers: list[GatedConsumer] = []

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def reach(point: str) -> None:
        """The worst moment: whatever may be committed by now is."""
        if point == wanted and sends.get() is not None:
            sends.set(None)
            await consumers[0].commit()
            die()

    class Table(parts.LogTable):
        def __init__(self, send: Any, *more: Any) -> None:
            async def counted(messages: Sequence[Any]) -> list[int]:
                number = sends.get()
                if number is None:
                    return await send(messages)  # type: ignore[no-any-return]
                sends.set(number + 1)
                if number == 1 and wanted == "records half sent":
                    await send(messages[: len(messages) // 2])
                    await reach(wanted)
                if number == 3:
                    await reach("rows in the table")
                positions = await send(messages)
                await reach(_AFTER_SEND[number])
                return positions  # type: ignore[no-any-return]

            super().__init__(counted, *more)

        async def flush(self, plan: Any) -> None:
            if plan.partition != partition or plan.last < position:
                return await super().flush(plan)
            sends.set(0)
            await reach("planned")
            await super().flush(plan)
            if wanted == "gate open":
                die()
            await reach("committed")

    set_persisted_offset = Store.set_persisted_offset

    def remember(self: GatedConsumer, *given: Any, **named: Any) -> None:
        consumers.append(self)
        made(self, *given, **named)

    def position_not(self: Store, tp: Any, offset: int) -> None:
        if wanted == "rows in the table, its position not" and sends.get() is not None:
            die()
        set_persisted_offset(self, tp, offset)

    made = GatedConsumer.__init__
    GatedConsumer.__init__ = remember
    Store.set_persisted_offset = position_not
    parts.LogTable = Table
    mirrorlog()


if __name__ == "__main__":
    main()
