"""Where a site keeps the states of its secondaries: one small file per volume.

Format, version 7: a line of mirrorlog/adapters/sealed_json.py, with the fields of SecondaryState,
`format` and `version`. `identity` is an object with the fields of SecondaryIdentity, or null.
`samples` is a list of [offset, length, digest], `common_point` is [id, position, at_us] or null. A
file that differs from this in any byte is damaged, so that no reader has to guess what it meant.

In version 6 `common_point` has no `at_us`. Version 5 has no `common_point`, version 4 no
`copied_bytes` either, version 3 no `history_id` and no `anchor`, version 2 no `identity` and no
`samples`, and version 1 no `changed_through`. A state without these is written in the older
version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final, NoReturn

from mirrorlog.adapters.folders import create_folder, sync_folder
from mirrorlog.adapters.sealed_json import sealed_line
from mirrorlog.adapters.spare_files import replace_files_often
from mirrorlog.consumers.state.secondary_state import (
    CommonPoint,
    Sample,
    SecondaryIdentity,
    SecondaryState,
)
from mirrorlog.domain.volumes import check_volume_name
from mirrorlog.errors import BadUse, DeviceFailed, StateDamaged
from mirrorlog.json_text import parse_json

FORMAT: Final = "mirrorlog.secondary_state"
FORMAT_VERSION: Final = 7
_ADDED_FIELDS: Final = {
    2: ("changed_through",),
    3: ("identity", "samples"),
    4: ("history_id", "anchor"),
    5: ("copied_bytes",),
    6: ("common_point",),
}
_NEWER_FIELDS: Final = {
    version: frozenset(
        name for added, names in _ADDED_FIELDS.items() if added > version for name in names
    )
    for version in range(1, FORMAT_VERSION + 1)
}
"""By version, the fields that it lacks."""
MAX_STATE_BYTES: Final = 1 << 16
"""A larger file is no state and isn't read: a state takes a small part of this."""
BATCH: Final = 64
"""The number of states that are saved together.

One journal commit of the file system makes them durable. So many files are open at a time."""


def encode_state(state: SecondaryState) -> bytes:
    """Return the bytes of `state` on disk."""
    version, point = _oldest_version(state), state.common_point
    payload = {
        "format": FORMAT,
        "version": version,
        **{field.name: getattr(state, field.name) for field in fields(SecondaryState)},
        "identity": None if state.identity is None else asdict(state.identity),
        "samples": [[sample.offset, sample.length, sample.digest] for sample in state.samples],
        "common_point": None if point is None else _point_fields(point),
    }
    for name in _NEWER_FIELDS[version]:
        del payload[name]
    return sealed_line(payload)


def _point_fields(point: CommonPoint) -> list[object]:
    return [point.id, point.position, *([] if point.at_us is None else [point.at_us])]


def _oldest_version(state: SecondaryState) -> int:
    """Return the oldest version that can hold the state."""
    if state.common_point is not None:
        return 6 if state.common_point.at_us is None else 7
    if state.copied_bytes is not None:
        return 5
    if state.history_id is not None or state.anchor is not None:
        return 4
    if state.identity is not None or state.samples:
        return 3
    return 1 if state.changed_through is None else 2


def decode_state(content: bytes, volume: str, where: str) -> SecondaryState:
    """Return the state of `volume` that these bytes hold.

    where: names the source of the bytes in the error. Raise StateDamaged unless the bytes are
    exactly those that encode_state() makes.
    """
    try:
        document = parse_json(content[:MAX_STATE_BYTES])
    except ValueError:
        _damaged("it isn't JSON", where)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        _damaged("it isn't the state of a secondary", where)
    version = document.get("version")
    if type(version) is not int or version not in _NEWER_FIELDS:
        _damaged(
            f"its format version {str(version)[:20]} isn't known to this release",
            where,
        )
    try:
        names = {field.name for field in fields(SecondaryState)} - _NEWER_FIELDS[version]
        values = {name: document[name] for name in names}
        if version >= 3:
            identity = values["identity"]
            values["identity"] = None if identity is None else SecondaryIdentity(**identity)
            values["samples"] = tuple(Sample(*sample) for sample in values["samples"])
        if values.get("common_point") is not None:
            values["common_point"] = CommonPoint(*values["common_point"])
        state = SecondaryState(**values)
        # This covers the checksum, and everything about which a JSON parser is lenient.
        intact = encode_state(state) == content
    except (KeyError, TypeError, ValueError, AttributeError, BadUse):
        intact = False
    if not intact:
        _damaged("it fails its checksum, or contradicts itself", where)
    if state.volume != volume:
        _damaged(f"it is the state of the volume '{state.volume}'", where)
    return state


class SecondaryStateFiles:
    """SecondaryStateStore in a folder.

    A state is in VOLUME.json. While it is written, it is in a spare (spare_files.py) or in
    .VOLUME.tmp. No volume's name begins with a dot.
    """

    def __init__(self, folder: Path) -> None:
        """Create the folder if needed, and make its entries durable.

        The process before may have died before the last step of put_in_place(). Raise DeviceFailed
        if the folder can't be created.
        """
        self.folder: Final = folder.absolute()
        try:
            create_folder(self.folder)
            sync_folder(self.folder)
        except OSError as error:
            raise _failed("making the folder of states", self.folder, error) from error

    def path(self, volume: str) -> Path:
        """Return the file of a volume. Raise BadUse for a name that is none."""
        return self.folder / f"{check_volume_name(volume)}.json"

    def load(self, volume: str) -> SecondaryState | None:
        """Return the state that was saved last; None if none ever was.

        Raise StateDamaged and DeviceFailed as SecondaryStateStore.load says.
        """
        path = self.path(volume)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_STATE_BYTES + 1)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self.folder.is_dir():
                return None
            raise _failed("reading the state of a secondary", path, error) from error
        return decode_state(content, volume, str(path))

    def save(self, state: SecondaryState) -> None:
        """Save one state, as save_all() does."""
        self.save_all([state])

    def save_all(self, states: Sequence[SecondaryState]) -> None:
        """Save the states, BATCH of them at a time.

        All are encoded first, so that an impossible state fails before any file is touched. Then
        replace_files_often() writes them. When it returns, the states are saved.
        """
        contents = {state.volume: encode_state(state) for state in states}
        for start in range(0, len(states), BATCH):
            self._replace(
                {state.volume: contents[state.volume] for state in states[start : start + BATCH]}
            )

    def _replace(self, contents: Mapping[str, bytes]) -> None:
        try:
            replace_files_often(
                {self.path(volume): content for volume, content in contents.items()}
            )
        except OSError as error:
            where = self.path(next(iter(contents))) if len(contents) == 1 else self.folder
            raise _failed("saving the state of secondaries", where, error) from error


def _damaged(why: str, where: str) -> NoReturn:
    raise StateDamaged(
        f"the state of a secondary can't be trusted: {why}",
        where=where,
        next="Nothing is guessed: move this file away and resync the volume by the rung 'full'.",
    )


def _failed(doing: str, path: Path, error: OSError) -> DeviceFailed:
    return DeviceFailed(
        f"{doing} failed: {error.strerror or error}",
        where=str(path),
        next="Give this user access and free space there, then start the site again.",
    )
