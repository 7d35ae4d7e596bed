"""The mark in a site's folder of journals, by which a disk that isn't mounted is noticed.

`site run --journal DIR` names a folder that may be on a disk of its own. If that disk isn't
mounted, the folder is an empty one of another disk: what is sealed in the journals would stay
unapplied, and new journals would fill the wrong disk. So the folder has a mark, and the site's
folder knows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from uuid import uuid4

from mirrorlog.adapters.folders import create_folder, replace_files
from mirrorlog.adapters.sealed_json import sealed_line
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.json_text import parse_json

MARK_NAME: Final = "mirrorlog-journals.json"
"""The mark in the folder of journals."""
KNOWN_NAME: Final = "journal-folder.json"
"""What the site's folder knows of it."""
_FORMAT: Final = "mirrorlog.journal_folder"
_MAX_BYTES: Final = 8192


def check_journal_folder(journals: Path, site_folder: Path) -> None:
    """Raise BadUse if the folder of journals has lost the mark that the site knows.

    Otherwise both have it afterwards, durably. A folder at another path than the one that the site
    knows is another folder, and is taken as it is. Raise DeviceFailed if a file can't be read or
    written.
    """
    mark_path, known_path = journals / MARK_NAME, site_folder / KNOWN_NAME
    mark, known = _read(mark_path), _read(known_path)
    is_known = known is not None and known.get("path") == str(journals)
    if is_known and known is not None and (mark is None or mark.get("id") != known.get("id")):
        what = "has lost its mark" if mark is None else "is another one"
        raise BadUse(
            f"the folder of journals {what}: is its disk mounted?",
            where=str(journals),
            next="Mount the disk with the site's journals there. If they are lost for good, remove "
            f"{known_path}: the site then begins new ones, and copies again what was in the old.",
        )
    if is_known:
        return
    name = str(uuid4()) if mark is None else mark["id"]
    try:
        for folder in (journals, site_folder):
            create_folder(folder)
        if mark is None:
            replace_files({mark_path: _content(name, journals)})
        replace_files({known_path: _content(name, journals)})
    except OSError as error:
        raise _failed("writing", mark_path, error) from error


def known_journal_folder(site_folder: Path) -> Path | None:
    """Return the folder of journals that was named to the site last; None if none was."""
    known = _read(site_folder / KNOWN_NAME)
    return None if known is None else Path(known["path"])


def _content(name: str, journals: Path) -> bytes:
    return sealed_line({"format": _FORMAT, "version": 1, "id": name, "path": str(journals)})


def _read(path: Path) -> dict[str, str] | None:
    """Return the fields of a mark; None if there is none, or none that can be trusted."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _failed("reading", path, error) from error
    try:
        fields = parse_json(content)
        if _content(fields["id"], Path(fields["path"])) == content:
            return {"id": fields["id"], "path": fields["path"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _failed(doing: str, path: Path, error: OSError) -> DeviceFailed:
    return DeviceFailed(
        f"{doing} the mark of the folder of journals failed: {error.strerror or error}",
        where=f"{path}, offset 0",
        next="Give this user access to the folder of journals (--journal), and a disk that works.",
    )
