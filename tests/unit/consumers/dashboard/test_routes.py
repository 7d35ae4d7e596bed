"""The server of the page, over a world in memory."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from dashboard_world import SITES, WRITTEN, DashboardWorld
from scraping import Page, exported_names, read_page

from mirrorlog.adapters.http.answer_headers import CONTENT_SECURITY_POLICY
from mirrorlog.consumers.dashboard.topic_looks import rest_s
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.metrics import METRICS

PAGE = Path(__file__).parents[4] / "consumers/dashboard/page"
Ask = Callable[[ClientSession], Awaitable[None]]


def asked(world: DashboardWorld, ask: Ask) -> None:
    """Serve the world, and let `ask` ask the server."""

    async def run(url: str) -> None:
        async with ClientSession(url) as client:
            await ask(client)

    with world.served() as url:
        asyncio.run(run(url))


async def events_until(client: ClientSession, wanted: str) -> dict[tuple[str, str], Any]:
    """Return the items that the stream has sent up to the event `wanted`."""
    items: dict[tuple[str, str], Any] = {}
    async with client.get("/v1/events") as stream:
        assert stream.content_type == "text/event-stream"
        name = ""
        async for line in stream.content:
            text = line.decode().strip()
            if text.startswith("event: "):
                name = text.removeprefix("event: ")
            elif text.startswith("data: "):
                data = json.loads(text.removeprefix("data: "))
                if name == "items":
                    items |= {(kind, item): fields for kind, item, fields in data}
                if name == wanted and (wanted != "looked" or data["at_us"] is not None) and items:
                    return items
    raise AssertionError("the stream ended")


def test_the_page_and_its_answers() -> None:
    world = DashboardWorld(volumes=9)
    world.refuse("MALFORMED", "the event ends inside a number", b"<b>v</b>", b"\xff\x00")

    async def ask(client: ClientSession) -> None:
        items = await events_until(client, "looked")
        assert set(items["volume", WRITTEN]["sites"]) == set(SITES)
        assert items["refused", "0"]["key"] == "<b>v</b>"
        assert items["refused", "0"]["value_head"] == "ff00"
        assert items["quarantine", ""] == {"count": 1, "shown": 1}
        async with client.get("/") as page:
            assert page.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
            assert page.headers["X-Content-Type-Options"] == "nosniff"
            text = await page.text()
        for name in re.findall(r'(?:src|href)="(page/[^"]+)"', text):
            async with client.get(f"/{name}") as file:
                assert file.status == 200
                etag = file.headers["ETag"]
            async with client.get(f"/{name}", headers={"If-None-Match": etag}) as file:
                assert file.status == 304
        async with client.get(f"/v1/volumes/{WRITTEN}/lag", params={"site": "oslo"}) as answer:
            assert (await answer.json())["sites"]["oslo"]["hour"]["lag_s"][-1] == 0
        await ask_changed(client, world)
        await ask_refused(client)
        await ask_metrics(client)

    asked(world, ask)


async def ask_metrics(client: ClientSession) -> None:
    """The metrics count what was asked before, and one refusal more with each strange host."""

    async def page() -> Page:
        async with client.get("/metrics") as answer:
            assert answer.status == 200
            return read_page(answer.headers["Content-Type"], await answer.text())

    before = await page()
    own = {metric for metric in METRICS if metric.role is ExportingRole.DASHBOARD}
    assert {metric.name for metric in own} <= exported_names(before)
    assert before["mirrorlog_dashboard_look_duration_seconds_count"][()] >= 1
    assert before["mirrorlog_dashboard_questions"][()] == 0
    async with client.get("/metrics", headers={"Host": "rebound.example"}) as refused:
        assert refused.status == 421
    name = "mirrorlog_dashboard_refused_requests_total"
    assert (await page())[name][()] == before[name][()] + 1


async def ask_changed(client: ClientSession, world: DashboardWorld) -> None:
    async with client.get(f"/v1/volumes/{WRITTEN}/heat", params={"since": "2h ago"}) as answer:
        heat = await answer.json()
    assert heat["is_whole"]
    assert heat["missing"] == []
    assert sum(cell[2] for cell in heat["cells"]) > 10_000
    points = {"since": "30min ago", "until": "10min ago"}
    url = f"/v1/volumes/{WRITTEN}"
    async with client.get(f"{url}/changed", params=points | {"limit": "5"}) as answer:
        page = await answer.json()
    assert len(page["extents"]) == 5
    assert page["hosts"] == ["storage-1"]
    assert sum(page["strip"]) == page["changed_blocks"] > 0
    positions = {"since": page["since"], "until": page["until"]}
    more = positions | {"offset": page["next"], "limit": 5}
    async with client.get(f"{url}/changed", params=more) as answer:
        following = await answer.json()
    assert following["extents"][0]["start"] == page["next"]
    async with client.get(f"{url}/download", params=positions | {"format": "csv"}) as answer:
        assert answer.headers["Content-Disposition"].startswith('attachment; filename="pg-orders')
        rows = list(csv.DictReader(io.StringIO(await answer.text())))
    assert [int(row["start"]) for row in rows[:5]] == [part["start"] for part in page["extents"]]
    assert sum(int(row["length"]) for row in rows) == page["changed_bytes"]
    async with client.get(f"{url}/download", params=positions | {"format": "json"}) as answer:
        listing = json.loads(await answer.text())
    dirty = sum(part["length"] for part in listing if part["dirty"])
    assert dirty == page["changed_bytes"]


async def ask_refused(client: ClientSession) -> None:
    """Ask for what there isn't, and in ways that aren't served."""
    url = f"/v1/volumes/{WRITTEN}"
    for path, status in {
        "/v1/volumes/nobody/changed": 404,
        "/v1/volumes/nobody/heat": 404,
        "/v1/volumes/%3Cb%3E/changed": 400,
        f"{url}/changed?since=yesterday-ish": 400,
        f"{url}/changed?limit=0": 400,
        f"{url}/changed?limit=9999": 400,
        f"{url}/changed?limit=0000000019999": 400,
        f"{url}/changed?since=@1&since=@2": 400,
        f"{url}/changed?what=1": 400,
        f"{url}/download?format=exe": 400,
        "/page/routes.py": 404,
        "/page/..%2froutes.py": 404,
        "/v1/nothing": 404,
    }.items():
        async with client.get(path) as answer:
            assert answer.status == status, path
            error = await answer.json()
            assert error["message_type"] == "error"
            assert "/docs" not in error["next"]  # the node's description, which isn't here
            assert "Content-Security-Policy" in answer.headers
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        async with client.request(method, "/v1/events", data=b"x") as answer:
            assert answer.status == 405


def test_without_kafka_the_page_says_what_was_and_since_when() -> None:
    world = DashboardWorld(volumes=3, history=False)

    async def ask(client: ClientSession) -> None:
        await events_until(client, "looked")
        async with client.get("/healthz") as answer:
            assert answer.status == 200
        world.broker.is_away = True
        async with client.get("/v1/events") as stream:
            async for line in stream.content:
                if line.startswith(b"data: {") and b"no broker answers" in line:
                    looked = json.loads(line.removeprefix(b"data: "))
                    break
        assert looked["at_us"] is not None

    asked(world, ask)


@pytest.mark.parametrize(("look_s", "rest"), [(0.01, 0.99), (0.2, 0.8), (1.5, 3.0)])
def test_looks_take_a_third_of_a_core_at_most(look_s: float, rest: float) -> None:
    assert rest_s(look_s) == pytest.approx(rest)


def test_nothing_in_the_page_needs_more_than_its_policy_allows() -> None:
    """No markup from text, no inline script or style, nothing from elsewhere."""
    for path in sorted(PAGE.iterdir()):
        text = path.read_text("utf-8")
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ):
            assert forbidden not in text, path
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), path
        if path.suffix == ".html":
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text), path
