"""Addresses of devices, and opening them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mirrorlog.adapters.addresses import open_device, parse_file_address, path_of
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
            "nbd://a/b",
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
