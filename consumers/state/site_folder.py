"""The id of a site's state folder, and the site that it belongs to.

Format of the file `site.json`, version 1: a line of mirrorlog/adapters/sealed_json.py, with `id` (a
UUID), `site`, `format` and `version`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from mirrorlog.adapters.folders import replace_files
from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.adapters.sealed_json import sealed_line
from mirrorlog.errors import BadUse, StateDamaged
from mirrorlog.json_text import parse_json

_FORMAT: Final = "mirrorlog.site_folder"
_MAX_BYTES: Final = 4096


def folder_id(folder: Path, site: str) -> str:
    """Return the id of a state folder, which is drawn at the first call. The folder is locked.

    Raise BadUse if the folder is another site's, StateDamaged if the file is damaged, DeviceFailed
    if it can't be read or written.
    """
    path = folder / "site.json"
    what = "the id of a site's folder can't be read or written"
    with os_errors_named(what, path, "Give this user access and free space there."):
        if not path.exists():
            replace_files({path: _encode(str(uuid4()), site)})
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
    try:
        document = parse_json(content)
        id_, owner = document["id"], document["site"]
        is_intact = _encode(str(UUID(id_)), owner) == content
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_intact, id_, owner = False, "", ""
    if not is_intact:
        raise StateDamaged(
            "the id of a site's folder can't be trusted: it isn't what a site writes",
            where=str(path),
            next="Remove this file. The site draws a new id.",
        )
    if owner != site:
        raise BadUse(
            f"this folder is that of the site {owner}, not of {site}",
            where=str(folder),
            next="Give each site a folder of its own (--dir).",
        )
    return str(id_)


def _encode(id_: str, site: str) -> bytes:
    return sealed_line({"format": _FORMAT, "version": 1, "id": id_, "site": site})
