"""A real Chromium without a window, driven by its own protocol (Chrome DevTools Protocol).

The client is aiohttp, which the project has anyway: no driver and no library is needed beside the
browser itself.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType
from deadlines import DEADLINE_S, wait_until

CHROMIUM: Final = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WHY_SKIPPED: Final = "no Chromium here (Debian: apt install chromium)"
_OPTIONS: Final = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class PageFailed(AssertionError):
    """A script of the test threw, or a condition wasn't met in time."""


@dataclass
class Browser:
    """One tab. problems: what its console, its exceptions and its content policy said."""

    socket: ClientWebSocketResponse
    session_id: str = ""
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _answers: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _calls: int = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._calls += 1
        answer = self._answers[self._calls] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": self._calls, "method": method, "params": params}
        if self.session_id:
            message["sessionId"] = self.session_id
        await self.socket.send_str(json.dumps(message))
        async with asyncio.timeout(DEADLINE_S):
            result: dict[str, Any] = await answer
        return result

    async def listen(self) -> None:
        """Take what the browser sends, until it ends."""
        async for message in self.socket:
            if message.type is not WSMsgType.TEXT:
                break
            fields = json.loads(message.data)
            if "id" in fields:
                answer = self._answers.pop(fields["id"])
                if answer.cancelled():
                    continue
                if "error" in fields:
                    answer.set_exception(PageFailed(str(fields["error"])))
                else:
                    answer.set_result(fields["result"])
            else:
                self._note(fields["method"], fields["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            thrown = details.get("exception", {}).get("description", "")
            self.problems.append(f"{details['text']} {thrown}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(str([arg.get("value") for arg in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    async def open(self, url: str) -> None:
        """Load a page anew. A change of the fragment alone loads nothing."""
        await self.call("Page.navigate", url="about:blank")
        await self.call("Page.navigate", url=url)

    async def look(self, script: str) -> Any:
        """Return the value of a script's last expression; a promise is awaited."""
        result = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise PageFailed(str(result["exceptionDetails"]))
        return result["result"].get("value")

    async def until(self, script: str) -> Any:
        """Return the first value of the script that counts as true. PageFailed at the deadline."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    with suppress(PageFailed):  # the page is being loaded
                        if value := await self.look(script):
                            return value
                    await asyncio.sleep(0.02)
        raise PageFailed(f"not within {DEADLINE_S:g} s: {script}; problems: {self.problems}")

    async def text(self, selector: str) -> str:
        """Return the text of the first element."""
        return str(await self.look(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def resize(self, width: int, height: int, scale: float = 1.0) -> None:
        """Let the window have a size in CSS pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    async def prefer(self, scheme: str) -> None:
        """Let the system's colours be `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def key(self, name: str) -> None:
        """Press a key, such as ArrowDown."""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    async def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one place, and release it at another."""
        where = [("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)]
        for kind, (x, y) in where:
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    async def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a picture of the page as PNG. whole: of what is below the window, too."""
        result = await self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole
        )
        path.write_bytes(base64.b64decode(result["data"]))


@asynccontextmanager
async def open_browser(folder: Path) -> AsyncIterator[Browser]:
    """Start a browser with a profile in `folder`, and end it."""
    assert CHROMIUM is not None
    options = [*_OPTIONS, f"--user-data-dir={folder}"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium's sandbox refuses to run as root
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [CHROMIUM, *options, "about:blank"], stdout=log, stderr=log, start_new_session=True
        )
    try:
        port, path = _endpoint(folder / "DevToolsActivePort", process)
        async with (
            ClientSession() as session,
            session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0) as socket,
        ):
            browser = Browser(socket)
            listening = asyncio.create_task(browser.listen())
            try:
                await _attach(browser)
                yield browser
            finally:
                with suppress(PageFailed, ConnectionError, TimeoutError):
                    browser.session_id = ""
                    await browser.call("Browser.close")
                listening.cancel()
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


async def _attach(browser: Browser) -> None:
    targets = (await browser.call("Target.getTargets"))["targetInfos"]
    target = next(info["targetId"] for info in targets if info["type"] == "page")
    attached = await browser.call("Target.attachToTarget", targetId=target, flatten=True)
    browser.session_id = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        await browser.call(f"{domain}.enable")


def _endpoint(file: Path, process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return the port and the path at which the browser listens, once it has written them."""

    def written() -> list[str]:
        lines = file.read_text().split("\n") if file.exists() else []
        return lines if len(lines) > 1 else []

    def check() -> None:
        assert process.poll() is None, "Chromium ended"

    port, path = wait_until(written, check)[:2]
    return int(port), path
