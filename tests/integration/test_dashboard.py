"""The dashboard in a real browser, over a world in memory, and as a process beside a real Kafka."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession
from browser import CHROMIUM, WHY_SKIPPED, Browser, open_browser
from dashboard_world import SITES, WRITTEN, DashboardWorld
from deadlines import DEADLINE_S
from writing import make_volumes

from mirrorlog.cli.demo.run import Run

pytestmark = [pytest.mark.integration]
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason=WHY_SKIPPED)
MANY = 10_000
TWO = SITES[:2]
ROWS = "document.querySelectorAll('tr[data-index]')"
FIRST = f"{ROWS}[0]?.querySelector('a').textContent"
Look = Callable[[Browser], Awaitable[None]]


def seen(world: DashboardWorld, folder: Path, look: Look) -> None:
    """Serve the world, and look at it. The page says nothing is wrong, and asks nobody else."""

    async def run(url: str) -> None:
        async with open_browser(folder) as browser:
            await browser.resize(1280, 800)
            await browser.open(url)
            await browser.until(f"{ROWS}.length > 2")
            await look(browser)
            assert browser.problems == []
            asked = {request for request in browser.requests if not request.startswith(url)}
            assert {request[:5] for request in asked} <= {"data:", "about"}

    with world.served() as url:
        asyncio.run(run(url))


def cell(name: str, site: str) -> str:
    """Return the script of a cell's text."""
    row = f"[...{ROWS}].find(row => row.querySelector('a').textContent === {json.dumps(name)})"
    return f"{row}?.querySelector('td[data-site={site}]').innerText"


async def set_value(browser: Browser, selector: str, value: str, event: str = "input") -> None:
    await browser.look(
        f"(() => {{ const field = document.querySelector({json.dumps(selector)});"
        f" field.value = {json.dumps(value)};"
        f" field.dispatchEvent(new Event('{event}', {{bubbles: true}})); }})()"
    )


@in_a_browser
def test_ten_thousand_volumes_stay_fast(tmp_path: Path) -> None:
    """The document holds the rows that are seen; search, filters, order and keys reach the rest."""
    world = DashboardWorld(volumes=MANY, history=False, sites=TWO)
    world.trouble()

    async def look(browser: Browser) -> None:
        await browser.until(
            f"document.querySelector('#count-line').textContent.includes('{MANY:,}')"
        )
        assert await browser.look(f"{ROWS}.length") < 60
        assert await browser.look("document.querySelector('table.map').ariaRowCount") is not None
        await browser.look("document.querySelector('#map-scroll').scrollTop = 1e9")
        last = f"[...{ROWS}].some(row => row.getAttribute('aria-rowindex') === '{MANY + 1}')"
        await browser.until(last)
        assert await browser.look(f"{ROWS}.length") < 60
        await set_value(browser, "#search", "vm-web-77")
        names = [name for name in world.names if "vm-web-77" in name]
        await browser.until(
            f"document.querySelector('#count-line').innerText.startsWith('{len(names)} ')"
        )
        await set_value(browser, "#search", "")
        await browser.look("document.querySelector('[data-health=CRITICAL]').click()")
        await browser.until(f"{ROWS}.length === 1")
        assert await browser.look(FIRST) == world.names[4]
        await browser.look("document.querySelector('[data-health=CRITICAL]').click()")
        await set_value(browser, "#sort", "name", "change")
        await browser.until(f"{FIRST} === {json.dumps(min(world.names))}")
        await browser.look(f"{ROWS}[0].querySelector('a').focus()")
        for _ in range(30):
            await browser.key("ArrowDown")
        thirtieth = sorted(world.names)[30]
        assert await browser.look("document.activeElement.textContent") == thirtieth
        await browser.look("document.querySelector('#map-scroll').scrollTop = 0")
        watched = next(name for name in sorted(world.names) if name not in world.names[:20])
        assert "consistent" in await browser.until(cell(watched, "oslo"))
        world.report("oslo", watched, lag_s=3.0, behind_blocks=2560, behind_bytes=10 << 20)
        await browser.until(f"({cell(watched, 'oslo')} ?? '').includes('10.0 MiB behind')")

    seen(world, tmp_path, look)


@in_a_browser
def test_two_times_are_picked_and_what_changed_is_shown_and_downloaded(tmp_path: Path) -> None:
    world = DashboardWorld(volumes=9)
    hostile = "<img src=x onerror=alert(1)>"
    world.refuse("MALFORMED", f"{hostile} isn't Avro", hostile.encode(), b"\xff")

    async def look(browser: Browser) -> None:
        await browser.look(f"location.hash = '#/volume/{WRITTEN}'")
        await browser.until("!!document.querySelector('.heat-legend i')")
        await pick_by_pointer_and_keys(browser)
        await browser.look("document.querySelector('#changes-ask').click()")
        await browser.until("document.querySelectorAll('#extents tbody tr').length === 200")
        status = await browser.text("#changes-status")
        assert "by storage-1" in status
        await set_value(browser, "#download-format", "csv", "change")
        text = await browser.look(
            "fetch(document.querySelector('#download').href).then(a => a.text())"
        )
        rows = text.splitlines()
        shown = await browser.look("document.querySelector('#extents tbody tr').innerText")
        assert rows[0] == "start,length,zero"
        assert rows[1].split(",")[:2] == shown.split()[:2]
        await live_progress(browser, world)
        await browser.look("location.hash = '#/quarantine'")
        await browser.until(f"document.body.innerText.includes({json.dumps(hostile)})")
        assert await browser.look("document.querySelectorAll('main img').length") == 0

    seen(world, tmp_path, look)


async def pick_by_pointer_and_keys(browser: Browser) -> None:
    """Pick two times by a drag, and move one of them by the keyboard."""
    await browser.look("document.querySelector('.heat-plot').scrollIntoView({block: 'center'})")
    box = await browser.look(
        "(() => { const box = document.querySelector('.heat-plot').getBoundingClientRect();"
        " return [box.x, box.y, box.width, box.height]; })()"
    )
    x, y, width, height = box
    before = await browser.look("document.querySelector('#changes-from').value")
    await browser.drag((x + width * 0.3, y + height / 2), (x + width * 0.6, y + height / 2))
    await browser.until(f"document.querySelector('#changes-from').value !== '{before}'")
    picked = "Number(document.querySelectorAll('.handle')[1].getAttribute('aria-valuenow'))"
    end = await browser.look(picked)
    await browser.look("document.querySelectorAll('.handle')[1].focus()")
    await browser.key("ArrowRight")
    assert await browser.look(picked) > end


async def live_progress(browser: Browser, world: DashboardWorld) -> None:
    """A copy and a verification are seen while they run."""
    world.verify("oslo", WRITTEN, 0.25)
    await browser.until("document.querySelector('.copies').innerText.includes('25.0 % verified')")
    world.verify("oslo", WRITTEN, 0.5, different=3)
    await browser.until("document.querySelector('.copies').innerText.includes('3 blocks differ')")


@in_a_browser
def test_light_dark_and_a_phone(tmp_path: Path) -> None:
    """Colours follow the system and the switch; nothing is wider than 360 pixels. What has no row
    of its own is named above the parts."""
    world = DashboardWorld(volumes=20)
    world.trouble()
    world.neglect()
    back = "getComputedStyle(document.body).backgroundColor"

    async def look(browser: Browser) -> None:
        light = await browser.look(back)
        await browser.prefer("dark")
        dark = await browser.until(f"{back} !== '{light}' && {back}")
        for wanted in (light, dark):
            await browser.look("document.querySelector('#theme').click()")
            await browser.until(f"{back} === '{wanted}'")
        await browser.resize(360, 720)
        for place, ready in {
            "#/": f"{ROWS}.length > 2",
            f"#/volume/{WRITTEN}": "!!document.querySelector('.heat-legend i')",
            "#/parts": "document.querySelectorAll('table').length > 2",
            "#/quarantine": "!!document.querySelector('table')",
        }.items():
            await browser.look(f"location.hash = '{place}'")
            await browser.until(ready)
            assert await browser.look("document.documentElement.scrollWidth") == 360, place
            if place == "#/parts":
                text = await browser.text("main table")
                for shown in ("Partition 0 has no worker", "no site mirrors: 1", "read: 1"):
                    assert shown in text
                assert await browser.text("#concerns-count") == "3"

    seen(world, tmp_path, look)


@in_a_browser
def test_a_page_without_the_server_says_so_and_comes_back(tmp_path: Path) -> None:
    world = DashboardWorld(volumes=4, history=False)

    async def look(browser: Browser) -> None:
        world.broker.is_away = True
        await browser.until("!document.querySelector('#banner').hidden")
        assert "no broker answers" in await browser.text("#banner")
        world.broker.is_away = False
        world.report("oslo", world.names[0], lag_s=2.0, behind_blocks=1, behind_bytes=4096)
        await browser.until("document.querySelector('#banner').hidden")
        await browser.until(f"({cell(world.names[0], 'oslo')} ?? '').includes('4.0 KiB behind')")

    seen(world, tmp_path, look)


def test_the_command_serves_the_page_until_it_is_stopped(world: Run, tmp_path: Path) -> None:
    """With a token: a stranger is sent to the login, and a probe isn't asked."""
    make_volumes(world.settings, {"vol1": 1 << 20}, tmp_path / "primaries")
    settings = world.settings.model_copy(update={"dashboard_http_token": "abc"})
    command = [sys.executable, "-m", "mirrorlog", "--json", "dashboard", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, **settings.as_environment()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["message_type"] == "ready"
            asyncio.run(ask_process(ready["url"]))
        finally:
            process.terminate()
        assert process.wait(DEADLINE_S) == 0


async def ask_process(url: str) -> None:
    """Ask the dashboard at `url`, whose token is `abc`."""
    bearer = {"Authorization": "Bearer abc"}
    async with ClientSession(url) as client, asyncio.timeout(DEADLINE_S):
        async with client.get("/", headers={"Accept": "text/html"}) as page:
            assert page.url.path == "/login"
        async with client.get("/v1/events") as refused:
            assert refused.status == 401
        async with client.get("/v1/events", headers=bearer) as stream:
            async for line in stream.content:
                if line.startswith(b"data: ") and b'"vol1"' in line:
                    break
        async with client.get("/healthz") as health:
            assert (await health.json())["status"] == "ok"
        async with client.get("/v1/volumes/vol1/changed", headers=bearer) as answer:
            assert (await answer.json())["changed_blocks"] == 0
