"""One message of a topic, decoded, in values that JSON can hold; and the volume it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any, Final

import numpy as np

from mirrorlog.changed.points import format_time
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BlockSet, runs
from mirrorlog.domain.commands import Quarantined
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.errors import BadInput
from mirrorlog.ports.streams import Message
from mirrorlog.tracking_log.keys import (
    HEAD_PREFIX,
    RECORD_PREFIX,
    read_record_key,
    split_log_name,
)

_IN_FRONT: Final = ("partition", "position", "published_at", "event")
_MAX_SHOWN: Final = 10
"""How many extents, and how many runs of blocks, a line shows. It says how many there are."""


def message_fields(message: Message) -> dict[str, Any]:
    """Return where and when `message` was published, and its event, with values JSON can hold.

    at: null for a message without a time. event: the type of the event; null for a tombstone,
    "undecodable" for bytes that are no event, whose first 64 bytes are under `value`.
    """
    at = format_time(message.at_us) if message.at_us else None
    where = {"partition": message.partition, "position": message.position, "published_at": at}
    return {**_decoded(message), **where}


def event_line(topic: str, fields: Mapping[str, Any]) -> str:
    """Return the fields of a message as a line for people: when, where, which event, its fields."""
    where = f"{topic} {fields['partition']}@{fields['position']}"
    rest = {name: value for name, value in fields.items() if name not in _IN_FRONT}
    event = fields["event"] or "tombstone"
    return f"{fields['published_at'] or '-'}  {where}  {event}  {json.dumps(rest)}"


def volume_of(message: Message, *, topic_of_log: str, topic_of_volumes: str) -> str | None:
    """Return the volume that a message is about, None if it is about none or can't be told.

    A record of the log of what a site has missed is about the volume. A tombstone is about the
    volume in its key.
    """
    if message.value is None:
        return _volume_of_key(message, topic_of_log, topic_of_volumes)
    try:
        event = decode(message.value, object)
    except BadInput:
        return _text(message.key)
    if isinstance(event, Quarantined):
        return _text(event.key)
    name = getattr(event, "volume", None)
    return split_log_name(name)[0] if isinstance(name, str) else None


def _volume_of_key(message: Message, topic_of_log: str, topic_of_volumes: str) -> str | None:
    key = message.key or b""
    if message.topic == topic_of_volumes:
        return _text(key)
    if message.topic == topic_of_log:
        return _volume_of_log_key(key)
    site, slash, volume = key.partition(b"/")
    return _text(volume) if slash and site else None


def _volume_of_log_key(key: bytes) -> str | None:
    if key.startswith(HEAD_PREFIX):
        return _text(key[len(HEAD_PREFIX) :])
    if not key.startswith(RECORD_PREFIX):
        return None
    try:
        return split_log_name(read_record_key(key).volume)[0]
    except BadInput:
        return None


def _text(key: bytes | None) -> str | None:
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError:
        return None


def _decoded(message: Message) -> dict[str, Any]:
    """Return the event in `message`, in values that JSON can hold."""
    if message.value is None:
        return {"event": None, "key": (message.key or b"").hex()}
    try:
        event = decode(message.value, object)
    except BadInput as error:
        return {"event": "undecodable", "what": error.what, "value": message.value[:64].hex()}
    return {"event": type(event).__name__, **_fields(event)}


def _fields(event: Any) -> dict[str, Any]:
    return {field.name: _json_value(getattr(event, field.name)) for field in fields(event)}


def _json_value(value: Any) -> Any:
    """Return the value of a field, in values that JSON can hold; long lists are cut."""
    if isinstance(value, ExtentColumns):
        first = [
            {
                "offset": extent.offset,
                "length": extent.length,
                "kind": extent.kind.name.lower(),
            }
            for extent in islice(value, _MAX_SHOWN)
        ]
        return {"extents": len(value), "first": first}
    if isinstance(value, BlockSet):
        return {"blocks": len(value), "first_runs": list(islice(runs(value), _MAX_SHOWN))}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [_json_value(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _json_value(item) for name, item in value.items()}
    if is_dataclass(value):
        return _fields(value)
    return value
