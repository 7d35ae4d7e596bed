"""Who may ask a server of mirrorlog, how much a client may send, and what each answer carries."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from certificates import Certificates, make_certificates
from deadlines import DEADLINE_S

from mirrorlog.adapters.http.access import HttpAccess
from mirrorlog.adapters.http.answer_headers import CONTENT_SECURITY_POLICY
from mirrorlog.adapters.http.connections import ConnectionLimits
from mirrorlog.adapters.http.guard import HttpGuard
from mirrorlog.adapters.http.http_server import HttpServer
from mirrorlog.adapters.http.login import Login
from mirrorlog.adapters.listening import ListeningWords, listen_at
from mirrorlog.errors import BadUse

LIMITS = ConnectionLimits(20, 10 * DEADLINE_S, request_bytes=10_000)
ANYBODY = HttpAccess()
WORDS = ListeningWords(who="a test", option="--http", token="its token")


@dataclass(frozen=True)
class Answer:
    """An answer. headers: by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def what(self) -> str:
        return str(json.loads(self.body)["what"])


class Asker:
    """Asks a server, each time by a connection of its own."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.port, self._context = port, context

    async def __call__(self, target: str = "/", body: bytes = b"", **headers: str) -> Answer:
        """Ask `METHOD /path`, or `/path` with GET. Underscores in names of headers are hyphens."""
        method, _, path = target.rpartition(" ")
        lines = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        if body:
            lines["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        return await self.send(f"{method or 'GET'} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)

    async def send(self, data: bytes) -> Answer:
        """Send bytes, and return the answer to them."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self._context)
        try:
            writer.write(data)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        first, *lines = head.decode().split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        return Answer(int(first.split()[1]), {key.lower(): value for key, _, value in pairs}, body)


@asynccontextmanager
async def served(
    access: HttpAccess = ANYBODY,
    limits: ConnectionLimits = LIMITS,
    *,
    has_login: bool = False,
    advertised: str = "",
    body_s: float = DEADLINE_S,
) -> AsyncIterator[Asker]:
    """Serve `/` and the open path `/open`, and `/echo` for bodies."""
    listening = listen_at("127.0.0.1:0", WORDS, is_guarded=access.is_guarded)
    listening.setblocking(False)
    port = listening.getsockname()[1]
    guard = HttpGuard(
        access,
        listening,
        "the token's setting",
        {"/open"},
        advertised_url=advertised,
        body_s=body_s,
        login=Login(access, port) if has_login else None,
    )
    app = guard.application()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/stream":
            stream = web.StreamResponse()
            await stream.prepare(request)
            await stream.write(b"streamed")
            return stream
        return web.Response(body=await request.read() or b"answered")

    for path in ("/", "/open", "/stream"):
        app.router.add_get(path, answer)
    app.router.add_post("/", answer)
    server = HttpServer(app, listening, limits, access.server_context())
    await server.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield Asker(port)
    finally:
        await server.stop()


def test_a_token_is_asked_for_except_on_open_paths() -> None:
    async def scenario() -> None:
        async with served(HttpAccess("sésame")) as ask:
            assert (await ask("/open")).status == 200
            for wrong in ("", "Bearer ", "Bearer sesame", "Bearer sésame2", "Basic sésame"):
                answer = await ask(Authorization=wrong)
                assert answer.status == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert "sésame" not in answer.body.decode()
            assert (await ask("/no-such-path")).status == 401
            answer = await ask(Authorization="Bearer sésame")
            assert (answer.status, answer.body) == (200, b"answered")

    asyncio.run(scenario())


# Host | status; %s is the port
HOSTS = """
127.0.0.1:%s        | 200
localhost           | 200
LOCALHOST:%s        | 200
node.localhost:%s   | 200
[::1]:%s            | 200
127.9.9.9           | 200
front.example:443   | 200
attacker.example:%s | 421
127.0.0.1.example   | 421
localhost.example   | 421
192.0.2.1:%s        | 421
[::1                | 421
"""


def test_a_name_that_leads_to_the_loopback_is_refused() -> None:
    """DNS rebinding: a page of attacker.example asks after its name was changed to 127.0.0.1."""

    async def scenario() -> None:
        async with served(advertised="https://front.example/") as ask:
            for line in HOSTS.strip().splitlines():
                host, status = (
                    part.strip().replace("%s", str(ask.port)) for part in line.split("|")
                )
                assert (await ask(Host=host)).status == int(status), host

    asyncio.run(scenario())


NAVIGATION = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/", {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}, 200),
        ("/", {"Sec_Fetch_Site": "none"} | NAVIGATION, 200),
        ("/", {"Sec_Fetch_Site": "cross-site"} | NAVIGATION, 200),
        ("/", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, 403),
        ("/", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 403),  # a frame
        ("/", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"}, 403),
        ("POST /", {"Sec_Fetch_Site": "cross-site"} | NAVIGATION, 403),
        ("POST /", {"Origin": "http://attacker.example"}, 403),
        ("POST /", {"Origin": "null"}, 403),
        ("/", {"Origin": "http://127.0.0.1:1"}, 403),
    ],
)
def test_pages_of_other_sites_may_only_be_followed(
    target: str, headers: dict[str, str], status: int
) -> None:
    async def scenario() -> None:
        async with served() as ask:
            assert (await ask(target, **headers)).status == status

    asyncio.run(scenario())


def test_every_answer_carries_the_headers_that_browsers_go_by() -> None:
    async def scenario() -> None:
        async with served(has_login=True, access=HttpAccess("token")) as ask:
            bearer = {"Authorization": "Bearer token"}
            for path in ("/", "/stream", "/no-such-path", "/login"):
                answer = await ask(path, **bearer)
                assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["referrer-policy"] == "no-referrer"
                assert answer.headers["cache-control"] == "no-store"
                assert answer.headers["server"] == "mirrorlog"
            refused = await ask()
            assert refused.headers["content-security-policy"] == CONTENT_SECURITY_POLICY

    asyncio.run(scenario())


def test_a_browser_gets_a_cookie_for_the_token() -> None:
    async def scenario() -> None:
        access = HttpAccess("token")
        async with served(access, has_login=True) as ask:
            page = {"Accept": "text/html,*/*"}
            answer = await ask(**page)
            assert (answer.status, answer.headers["location"]) == (303, "/login")
            assert (await ask()).status == 401  # a script is not sent to a page
            assert b"<form" in (await ask("/login", **page)).body
            form = {"Content_Type": "application/x-www-form-urlencoded"}
            wrong = await ask("POST /login", b"token=other", **form)
            assert (wrong.status, "set-cookie" in wrong.headers) == (401, False)
            answer = await ask("POST /login", b"token=token", **form)
            cookie, *attributes = answer.headers["set-cookie"].split("; ")
            assert (answer.status, answer.headers["location"]) == (303, "/")
            assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
            name, _, value = cookie.partition("=")
            assert name == f"mirrorlog-{ask.port}" and "token" not in value
            assert (await ask(Cookie=cookie)).status == 200
            until, _, code = value.partition(".")
            for forged in (f"{int(until) + 1}.{code}", f"{until}.", f"0.{code}", "", "."):
                assert (await ask(Cookie=f"{name}={forged}")).status == 401, forged
            # Of another token, of another port, and one whose time is over.
            later = Login(access, ask.port, now_s=lambda: 0.0)
            old = f"{12 * 3600}.{later._code(str(12 * 3600))}"
            assert (await ask(Cookie=f"{name}={old}")).status == 401
            other = Login(HttpAccess("other"), ask.port)._code(until)
            assert (await ask(Cookie=f"{name}={until}.{other}")).status == 401
            answer = await ask("POST /logout", Cookie=cookie)
            assert f"{name}=" in answer.headers["set-cookie"]

    asyncio.run(scenario())


def test_large_requests_are_refused_without_being_kept(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with served() as ask:
            assert (await ask("POST /", b"x" * 4096)).body == b"x" * 4096
            answer = await ask("POST /", b"x" * 4097)
            assert (answer.status, answer.what) == (413, "the body is larger than 4096 bytes")
            head = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
            answer = await ask.send(chunked + b"1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n")
            assert answer.status == 413
            lines = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(100))
            answer = await ask.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + lines)
            assert (answer.status, answer.what) == (431, "the request has more than 10000 bytes")
            assert (await ask.send(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n")).status == 400
            assert (await ask.send(b"\x16\x03\x01 not HTTP\r\n\r\n")).status == 400

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert caplog.records == []  # strangers don't fill the log


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def scenario() -> None:
        async with served(body_s=0.05) as ask:
            head = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            assert (await ask.send(head + b"Content-Length: 9\r\n\r\n1")).status == 408

    asyncio.run(scenario())


def test_one_client_can_not_take_all_connections() -> None:
    async def scenario() -> None:
        limits = ConnectionLimits(20, 10 * DEADLINE_S, of_one_client=2)
        async with served(limits=limits) as ask:
            idle = [await asyncio.open_connection("127.0.0.1", ask.port) for _ in range(2)]
            answer = await ask()
            assert (answer.status, "this client has 2" in answer.what) == (503, True)
            idle[0][1].close()
            while (answer := await ask()).status == 503:
                await asyncio.sleep(0)
            assert answer.status == 200
            idle[1][1].close()

    asyncio.run(scenario())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_with_a_ca_only_clients_with_a_certificate_are_answered(
    certificates: Certificates,
) -> None:
    async def scenario() -> None:
        limits = ConnectionLimits(3, 10 * DEADLINE_S)
        async with served(certificates.server, limits) as plain:
            assert certificates.server.is_guarded
            ask = Asker(plain.port, certificates.client.client_context())
            assert (await ask()).body == b"answered"
            for other in (certificates.bare, certificates.stranger):
                with pytest.raises((ssl.SSLError, ConnectionError, ValueError, IndexError)):
                    await Asker(plain.port, other.client_context())()
            with pytest.raises((ConnectionError, IndexError)):
                await plain()  # no TLS
            # Handshakes that don't end count as connections, too.
            begun = [await asyncio.open_connection("127.0.0.1", plain.port) for _ in range(3)]
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await ask()
            for _, writer in begun:
                writer.close()
            while True:
                try:
                    assert (await ask()).body == b"answered"
                except (ssl.SSLError, ConnectionError):
                    await asyncio.sleep(0)
                else:
                    break

    asyncio.run(scenario())


def test_certificates_that_can_not_be_used_are_errors(
    certificates: Certificates, tmp_path: Path
) -> None:
    server = certificates.server
    text = tmp_path / "text"
    text.write_text("no certificate")
    encrypted = tmp_path / "encrypted"
    encrypted.write_bytes(_with_password(server.key))
    for access in (
        HttpAccess(certificate=server.certificate),
        HttpAccess(ca=server.ca),
        HttpAccess(certificate=server.certificate, key=tmp_path / "missing"),
        HttpAccess(certificate=text, key=server.key),
        HttpAccess(certificate=server.certificate, key=encrypted),
        HttpAccess(certificate=server.certificate, key=server.key, ca=text),
    ):
        with pytest.raises(BadUse):
            access.server_context()
    assert HttpAccess().server_context() is None


def _with_password(key: Path | None) -> bytes:
    from cryptography.hazmat.primitives import serialization

    assert key is not None
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


def test_only_the_loopback_is_served_without_a_guard() -> None:
    assert not HttpAccess().is_guarded
    assert not HttpAccess(ca=Path("ca")).is_guarded  # without TLS nobody asks for a certificate
    assert not HttpAccess(certificate=Path("c"), key=Path("k")).is_guarded
    with pytest.raises(BadUse, match="anybody there could ask"):
        listen_at("0.0.0.0:0", WORDS, is_guarded=False)
