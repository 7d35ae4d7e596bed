"""A stream sends changes, goes on after a break, and makes no queue for a slow client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mirrorlog.consumers.dashboard import event_stream
from mirrorlog.consumers.dashboard.event_stream import EventStreams
from mirrorlog.consumers.dashboard.live_items import LiveItems
from mirrorlog.consumers.dashboard.page_items import ItemKey
from mirrorlog.consumers.dashboard.topic_looks import LookState
from mirrorlog.errors import NodeUnavailable


class Client:
    """Keeps what it is sent. gate: while it is closed, the client takes nothing."""

    def __init__(self) -> None:
        self.text = ""
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, data: bytes, /) -> None:
        await self.gate.wait()
        self.text += data.decode()

    @property
    def events(self) -> list[tuple[str, Any, str | None]]:
        """The events so far: name, data, id."""
        events = []
        for block in self.text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            if "event" in fields:
                events.append((fields["event"], json.loads(fields["data"]), fields.get("id")))
        return events

    def sent(self, name: str) -> list[Any]:
        return [data for event, data, _ in self.events if event == name]

    @property
    def last_id(self) -> str | None:
        return [identity for _, _, identity in self.events if identity is not None][-1]


def items(count: int, value: int = 0) -> dict[ItemKey, dict[str, Any]]:
    return {ItemKey("volume", f"v{number}"): {"n": value} for number in range(count)}


async def settle() -> None:
    """Let the streams send what there is to send."""
    for _ in range(200):
        await asyncio.sleep(0)


async def connected(
    streams: EventStreams, last_id: str | None = None
) -> tuple[Client, asyncio.Task[None]]:
    """Return a client that has been sent what there is, and the task of its stream."""
    client = Client()
    task = asyncio.create_task(streams.run(client, last_id))
    await settle()
    return client, task


def test_a_client_gets_everything_then_changes() -> None:
    async def run() -> None:
        live = LiveItems("e")
        live.replace(items(3))
        streams = EventStreams(live, LookState(at_us=5))
        client, task = await connected(streams)
        assert [name for name, _, _ in client.events] == ["reset", "items", "looked"]
        live.replace(items(3) | {ItemKey("volume", "v1"): {"n": 9}})
        streams.note_look()
        await settle()
        assert client.sent("items")[-1] == [["volume", "v1", {"n": 9}]]
        live.replace(items(2))
        streams.note_look()
        await settle()
        assert client.sent("removed") == [[["volume", "v2"]]]
        streams.end()
        await task
        assert streams.open == 0

    asyncio.run(run())


def test_a_client_that_comes_back_gets_what_changed_meanwhile() -> None:
    async def run() -> None:
        live = LiveItems("e")
        live.replace(items(3))
        streams = EventStreams(live, LookState(at_us=5))
        client, task = await connected(streams)
        task.cancel()
        live.replace(items(3) | {ItemKey("volume", "v0"): {"n": 1}})
        again, task = await connected(streams, client.last_id)
        assert again.sent("reset") == []
        assert again.sent("items") == [[["volume", "v0", {"n": 1}]]]
        task.cancel()
        of_another_run, task = await connected(streams, "f-1")
        assert of_another_run.sent("reset") == [[]]
        task.cancel()

    asyncio.run(run())


def test_only_the_last_part_of_a_change_has_its_id() -> None:
    live = LiveItems("e")
    live.replace(items(450))
    events = list(event_stream.change_events(live.changes_after(None), "e"))
    assert [event.startswith("id: e-1\n") for event in events] == [False, False, False, True]


def test_many_changes_reach_a_slow_client_as_one() -> None:
    async def run() -> None:
        live = LiveItems("e")
        live.replace(items(2))
        streams = EventStreams(live, LookState(at_us=5))
        client, task = await connected(streams)
        client.gate.clear()
        for value in range(1, 101):
            live.replace(items(2, value))
            streams.note_look()
            await asyncio.sleep(0)
        client.gate.set()
        streams.note_look()
        await settle()
        sent = client.sent("items")
        assert sent[-1] == [["volume", "v0", {"n": 100}], ["volume", "v1", {"n": 100}]]
        assert len(sent) <= 3
        task.cancel()

    asyncio.run(run())


def test_a_client_that_takes_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        live, client = LiveItems("e"), Client()
        client.gate.clear()
        streams = EventStreams(live, LookState())
        with pytest.raises(TimeoutError):
            await streams.run(client, None)
        assert streams.open == 0

    monkeypatch.setattr(event_stream, "SLOW_CLIENT_S", 0.01)
    asyncio.run(run())


def test_the_number_of_streams_is_bounded() -> None:
    streams = EventStreams(LiveItems("e"), LookState())
    streams.check_room()
    streams.open = event_stream.MAX_CLIENTS
    with pytest.raises(NodeUnavailable, match="64 pages are open"):
        streams.check_room()
