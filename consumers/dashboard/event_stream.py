"""Sends a client what changes, as server-sent events (WHATWG HTML, 9.2).

The events of a stream:

- `reset`: the client drops what it has. All items follow.
- `items`: a JSON list of [kind, name, fields], new or changed.
- `removed`: a JSON list of [kind, name].
- `looked`: the time as of which all of it is, and what is wrong with Kafka if something is. It is
  sent after each look, so a client knows that the stream lives.

The last event of a change carries an id, EPOCH-VERSION, which a browser sends again when it
connects again (Last-Event-ID). It is then sent what changed since. No change is queued for a
client: see live_items.py.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from mirrorlog.consumers.dashboard.live_items import ItemChanges, LiveItems
from mirrorlog.consumers.dashboard.topic_looks import LookState
from mirrorlog.errors import NodeUnavailable

MAX_CLIENTS: Final = 64
"""So many streams are open at a time."""
SLOW_CLIENT_S: Final = 30.0
"""A client that takes nothing for this long is disconnected. A browser connects again."""
_PART_ITEMS: Final = 200
"""Items in one event: at most so many wait for one client as text."""
_RETRY_MS: Final = 2000
_ID: Final = re.compile(r"([0-9a-f]{1,32})-([0-9]{1,18})")


class EventWriter(Protocol):
    """Takes bytes, and waits while the client doesn't (aiohttp.web.StreamResponse)."""

    async def write(self, data: bytes, /) -> None:
        """Take bytes."""


class EventStreams:
    """The streams of all clients, on one event loop. Call note_look() there after each look."""

    def __init__(self, items: LiveItems, state: LookState) -> None:
        self._items, self._state = items, state
        self._looked = asyncio.Event()
        self.open = 0
        self.is_over = False

    def note_look(self) -> None:
        """Wake the streams."""
        self._looked.set()
        self._looked = asyncio.Event()

    def end(self) -> None:
        """End all streams."""
        self.is_over = True
        self.note_look()

    async def run(self, writer: EventWriter, last_id: str | None) -> None:
        """Send changes until the client goes away, or is too slow (TimeoutError).

        last_id: the id that the client saw last; None, or one of another epoch: it has nothing.
        """
        version = version_of(last_id, self._items.epoch)
        self.open += 1
        try:
            await _send(writer, f"retry: {_RETRY_MS}\n\n")
            while not self.is_over:
                looked = self._looked
                changes = self._items.changes_after(version)
                if changes.version != version or changes.is_everything:
                    for event in change_events(changes, self._items.epoch):
                        await _send(writer, event)
                    version = changes.version
                await _send(writer, looked_event(self._state))
                await looked.wait()
        finally:
            self.open -= 1

    def check_room(self) -> None:
        """Raise NodeUnavailable if too many streams are open."""
        if self.open >= MAX_CLIENTS:
            raise NodeUnavailable(
                f"{MAX_CLIENTS} pages are open, and no more at a time",
                next="Close one, and load this page again.",
            )


async def _send(writer: EventWriter, text: str) -> None:
    async with asyncio.timeout(SLOW_CLIENT_S):
        await writer.write(text.encode())
    await asyncio.sleep(0)  # a write to a socket with room doesn't let others work


def version_of(last_id: str | None, epoch: str) -> int | None:
    """Return the version that an id names; None if it isn't one of this epoch."""
    match = _ID.fullmatch(last_id or "")
    return int(match.group(2)) if match and match.group(1) == epoch else None


def change_events(changes: ItemChanges, epoch: str) -> Iterator[str]:
    """Yield the events of a change. The last one alone has the id: a part of a change is none."""
    events = list[tuple[str, Sequence[Any]]]()
    if changes.is_everything:
        events.append(("reset", ()))
    for start in range(0, len(changes.items), _PART_ITEMS):
        part = changes.items[start : start + _PART_ITEMS]
        events.append(("items", [[*key, fields] for key, fields in part]))
    if changes.removed:
        events.append(("removed", [list(key) for key in changes.removed]))
    for index, (name, data) in enumerate(events):
        is_last = index == len(events) - 1
        yield event_text(name, data, f"{epoch}-{changes.version}" if is_last else None)


def looked_event(state: LookState) -> str:
    """Return the event that says as of when everything is."""
    return event_text("looked", {"at_us": state.at_us, "error": state.error})


def event_text(name: str, data: Any, event_id: str | None = None) -> str:
    """Return an event. JSON has no line break, so one line of data is enough."""
    first = "" if event_id is None else f"id: {event_id}\n"
    return f"{first}event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n"


async def stream_response(
    request: web.Request, streams: EventStreams, last_id: str | None
) -> web.StreamResponse:
    """Answer a request with the stream, until one of both ends it. Raise as check_room()."""
    streams.check_room()
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    try:
        await streams.run(response, last_id)
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
    return response
