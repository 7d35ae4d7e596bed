"""NBD URIs."""

from __future__ import annotations

import pytest

from mirrorlog.adapters.nbd_client.nbd_uri import NbdUri, is_nbd, parse_nbd_uri
from mirrorlog.errors import BadUse


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        ("nbd://host", NbdUri("nbd", "host:10809", tls={})),
        ("NBD://host:1/a%2Fb c", NbdUri("nbd", "host:1", "a/b c", tls={})),
        ("nbd://[::1]//x", NbdUri("nbd", "[::1]:10809", "/x", tls={})),
        (
            "nbds://alice@host/e?tls-psk-file=/k&tls-verify-peer=false",
            NbdUri(
                "nbds",
                "host:10809",
                "e",
                "alice",
                {"tls-psk-file": "/k", "tls-verify-peer": "false"},
            ),
        ),
        ("nbd+unix:///e?socket=/a%20b", NbdUri("nbd+unix", "/a b", "e", tls={})),
        (
            "nbds+unix://?socket=/s&tls-certificates=/c",
            NbdUri("nbds+unix", "/s", "", tls={"tls-certificates": "/c"}),
        ),
    ],
)
def test_valid_uris(address: str, uri: NbdUri) -> None:
    assert is_nbd(address)
    assert parse_nbd_uri(address) == uri
    assert parse_nbd_uri(str(uri)).place == uri.place
    again = parse_nbd_uri(uri.target)
    assert (again.place, again.user) == (uri.place, uri.user)


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("nbd://", "host"),
        ("nbd:///e", "host"),
        ("nbd://host:x", "malformed"),
        ("nbd://host:99999", "malformed"),
        ("nbd://host?socket=/s", "socket"),
        ("nbd+unix:///e", "socket"),
        ("nbd+unix:///e?socket=s", "socket"),
        ("nbd+unix://host/e?socket=/s", "socket"),
        ("nbd://host?tls-psk-file=/k", "TLS"),
        ("nbds://host?tls-verify-peer=perhaps", "true or false"),
        ("nbds://host?tls-verfy-peer=false", "no option 'tls-verfy-peer'"),
        ("nbds://host?tls-psk-file=/k&tls-psk-file=/l", "once"),
        ("nbd://host#e", "#"),
        ("nbd://host/%00", "NUL"),
        (f"nbd://host/{'e' * 4097}", "4096"),
    ],
)
def test_invalid_uris(address: str, what: str) -> None:
    with pytest.raises(BadUse, match=what) as caught:
        parse_nbd_uri(address)
    assert caught.value.next


def test_no_error_repeats_a_password() -> None:
    with pytest.raises(BadUse) as caught:
        parse_nbd_uri("nbds://alice:secret@host/e?tls-psk-file=/k")
    assert "secret" not in str(caught.value)


def test_people_see_neither_user_nor_files() -> None:
    uri = parse_nbd_uri("nbds://alice@host/e?tls-psk-file=/k")
    assert str(uri) == "nbds://host:10809/e"
