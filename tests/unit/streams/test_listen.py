"""The node's HTTP socket: which addresses are allowed, and which free port is bound again."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mirrorlog.adapters.http.access import HttpAccess
from mirrorlog.errors import BadUse
from mirrorlog.streams.web.listen import group_instance_id, listen

# address | token | the URL, or what the error says
LISTEN = """
off            |   | nothing
127.0.0.1:0    |   | http://127.0.0.1:
localhost:0    |   | http://127.0.0.1:
[::1]:0        |   | http://[::1]:
0.0.0.0:0      |   | could ask
[::]:0         |   | could ask
0.0.0.0:0      | t | http://
127.0.0.1      |   | is no address
127.0.0.1:-1   |   | is no address
127.0.0.1:99999|   | is no address
:80            |   | is no address
nowhere.invalid:0 | | can't listen
192.0.2.1:0    | t | can't listen
"""


@pytest.mark.parametrize("case", LISTEN.strip("\n").splitlines())
def test_addresses(case: str) -> None:
    address, token, expected = (part.strip() for part in case.split("|"))
    if address.startswith("[::1]") and not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    try:
        endpoint = listen(address, HttpAccess(token))
    except BadUse as error:
        assert expected in error.what
        return
    if endpoint is None:
        assert expected == "nothing"
        return
    endpoint.socket.close()
    assert endpoint.url.startswith(expected)


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_a_port_in_use_is_an_error_and_a_free_port_is_remembered(tmp_path: Path) -> None:
    hint = tmp_path / "http-port"
    first = listen("127.0.0.1:0", HttpAccess(), remembered=hint)
    assert first is not None
    with pytest.raises(BadUse, match=r"can't listen at .* in use"):
        listen(first.url.removeprefix("http://"), HttpAccess())
    other = listen("127.0.0.1:0", HttpAccess(), remembered=hint)  # the remembered port is in use
    assert other is not None
    assert other.url != first.url
    assert group_instance_id("n", "i", other) != group_instance_id("n", "i", first)
    assert group_instance_id("n", "i", None) != group_instance_id("n", "j", None)
    first.socket.close()
    other.socket.close()
    again = listen("127.0.0.1:0", HttpAccess(), remembered=hint)
    assert again is not None
    assert again.url == other.url
    again.socket.close()
    hint.write_text("no port")
    fresh = listen("127.0.0.1:0", HttpAccess(), "http://node-1:80/", remembered=hint)
    assert fresh is not None
    assert fresh.url == "http://node-1:80"
    fresh.socket.close()
