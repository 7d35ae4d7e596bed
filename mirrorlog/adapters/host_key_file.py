"""The node's file of host keys: who has which keys, and which volumes each holder may touch.

It is TOML, one table a holder:

    [hosts.east]
    volumes = ["vm-*", "db"]
    keys = ["east/1:SECRET", "east/2:SECRET"]

A holder has several keys while one of them is changed (docs/host-keys.md).
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mirrorlog.domain.host_keys import Holder, HostKey, HostKeys, parse_host_key
from mirrorlog.errors import BadUse

log = logging.getLogger("mirrorlog.node")

_MAX_BYTES: Final = 16 << 20
_NEXT: Final = "docs/host-keys.md has an example."


def read_host_keys(path: Path) -> HostKeys:
    """Return the keys in the file. Raise BadUse, which shows no secret, if it can't be used."""
    where = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        tables = tomllib.loads(content.decode())
    except OSError as error:
        raise BadUse(
            f"the file of host keys can't be read: {error.strerror}", where=where, next=_NEXT
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        # The parser's own text may show a part of a secret.
        raise BadUse("the file of host keys isn't TOML", where=where, next=_NEXT) from None
    if len(content) > _MAX_BYTES:
        raise BadUse("the file of host keys is too large", where=where, next=_NEXT)
    try:
        return _host_keys(tables)
    except BadUse as error:
        raise BadUse(error.what, where=where, next=_NEXT) from None


def _host_keys(tables: Mapping[str, Any]) -> HostKeys:
    hosts = tables.get("hosts")
    if set(tables) != {"hosts"} or not isinstance(hosts, dict):
        raise BadUse("the file of host keys has tables [hosts.HOLDER], and nothing else")
    holders: dict[str, Holder] = {}
    keys: dict[str, HostKey] = {}
    for name, table in hosts.items():
        if not isinstance(table, dict) or set(table) != {"volumes", "keys"}:
            raise BadUse(f"[hosts.{name}] has two entries: volumes and keys")
        volumes, texts = table["volumes"], table["keys"]
        for entry in (volumes, texts):
            if not isinstance(entry, list) or not all(isinstance(text, str) for text in entry):
                raise BadUse(f"volumes and keys of [hosts.{name}] are lists of texts")
        holders[name] = Holder(name, tuple(volumes))
        for text in texts:
            key = parse_host_key(text)
            if key.holder != name:
                raise BadUse(f"[hosts.{name}] has host key {key.id}, which is another holder's")
            if key.id in keys:
                raise BadUse(f"host key {key.id} is there twice")
            keys[key.id] = key
    return HostKeys(keys, holders)


class HostKeyFile:
    """The keys as of now: the file is read again when it changes. One thread uses this.

    A change that can't be used is logged, and the keys stay as they were.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raise BadUse if it can't be used."""
        self._path = path
        self._stamp = self._look()
        self._keys = read_host_keys(path)

    def current(self) -> HostKeys:
        """Return the keys. It costs a look at the file, and no reading unless it has changed."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._keys = read_host_keys(self._path)
                log.info("the file of host keys is read again: %d keys", len(self._keys.keys))
            except BadUse as error:
                log.warning("the host keys stay as they were: %s", error)
        return self._keys

    def _look(self) -> tuple[int, int, int]:
        """Return what tells one content of the file from the next."""
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return status.st_ino, status.st_mtime_ns, status.st_size
