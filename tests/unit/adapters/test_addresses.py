"""Addresses of devices, and opening them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mirrorlog.adapters.addresses import (
    open_device,
    open_primary,
    parse_file_address,
    path_of,
    place_of,
)
from mirrorlog.errors import BadUse, DeviceFailed


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///a/b", "/a/b"),
        ("file:/a/b", "/a/b"),
        ("FILE://localhost/a%20b%3F%23", "/a b?#"),
        ("/a b?#%20", "/a b?#%20"),
        ("some:thing/a", "some:thing/a"),
    ],
)
def test_valid_addresses(address: str, path: str) -> None:
    assert path_of(address) == Path(path)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "a\0b",
            "file:///a%00b",
            "file://elsewhere/a",
            "file://",
            "file:///",
            "rbd://a/b",
            "x://",
        ),
        *(
            "file:///a?b",
            "file:///a?",
            "file:///a?direct=1&b",
            "file:///a?direct=1#b",
            "file:///a#b",
        ),
    ],
)
def test_invalid_addresses(address: str) -> None:
    with pytest.raises(BadUse) as caught:
        open_device(address, writable=False)
    assert "file" in caught.value.next


def test_only_files_and_block_devices_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(BadUse):
            open_device(str(path), writable=True)
    with pytest.raises(DeviceFailed, match="create"):
        open_device(str(tmp_path / "missing"), writable=True)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("address", ["file:///a%20b", "file:///a%3Fb?direct=1"])
def test_an_address_survives_parsing(address: str) -> None:
    assert parse_file_address(address).uri == address


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("nbd://Primary", "nbds://primary:10809/?tls-verify-peer=false"),
        ("nbd://a/b%20c", "nbd://me@a:10809/b c"),
        ("nbd+unix:///e?socket=/s", "nbds+unix:///e?socket=/s"),
        ("file:///a/b", "/a/../a/b"),
    ],
)
def test_one_place_has_one_name(one: str, other: str) -> None:
    assert place_of(one) == place_of(other)


def test_different_places_have_different_names() -> None:
    places = [
        *("nbd://a", "nbd://a/b", "nbd://a:1", "nbd+unix:///?socket=/a", "nbd://[::1]"),
        *("/a", "nbd+unix:///b?socket=/a"),
    ]
    assert len(set(map(place_of, places))) == len(places)


@pytest.mark.parametrize(
    "call", [parse_file_address, path_of, lambda a: open_primary(a, exclusive=True)]
)
def test_what_needs_a_file_refuses_an_nbd_export(call: Callable[[str], object]) -> None:
    with pytest.raises(BadUse, match="not an NBD export") as caught:
        call("nbds://alice@primary/e?tls-psk-file=/keys")
    assert caught.value.where == "nbds://primary:10809/e"
    assert "--primary FILE" in caught.value.next
