"""Tells completed flushes from completed operations on zones: neither has bytes."""

from __future__ import annotations

from typing import Final

from mirrorlog.producers.traces.block_events import BlockEvent

_FLUSH: Final = -1
_OTHER: Final = -2


class FlushEnds:
    """The completions of one device.

    A flush without its flags looks like an operation on a zone when it is completed. But it is
    completed in one go with what it waited for, on the same CPU (blk_flush_complete_seq): with the
    request that flushes the cache, with another flush, or with its own data, behind which it then
    begins.

        C  FN 0 [0]             C  WS 575480352 + 8 [0]
        C  WS 2048 [0]          C  WS 575480360 [0]
    """

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def is_flush(self, event: BlockEvent) -> bool:
        """Take the next completion, and return whether it ends a flush.

        The events of each CPU must come in order.
        """
        last = self._last.get(event.cpu, _OTHER)
        is_flush = not event.length and (event.is_flush() or last in (_FLUSH, event.offset))
        self._last[event.cpu] = (
            event.offset + event.length if event.length else _FLUSH if is_flush else _OTHER
        )
        return is_flush
