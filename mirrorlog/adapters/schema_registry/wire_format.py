"""Events in Confluent's wire format, to and from the plain one, where they leave and enter Kafka.

Confluent's wire format is a zero byte, the id of the schema (4 bytes, big-endian) and the record.
The plain format is Avro's single-object encoding (codec/events.py): it begins with 0xC3, so both
can be in one topic. Everything inside mirrorlog, digests and proofs too, has the plain format.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from mirrorlog.adapters.folders import replace_shared_file
from mirrorlog.errors import MirrorlogError
from mirrorlog.json_text import parse_json
from mirrorlog.registry_access import EVERY_KIND, REGISTRY_KEY, RegistryAccess

log = logging.getLogger("mirrorlog.schema_registry")

_PREFIX: Final = struct.Struct(">BI")
_MAGIC: Final = b"\0"
_PLAIN_MARKER: Final = b"\xc3\x01"
_PLAIN_HEADER_BYTES: Final = 10
_RETRY_S: Final = 30.0


def wire_format_of(settings: Any) -> WireFormat | None:
    """Return the format of a Kafka client with these settings; None without a registry."""
    access = settings.get(REGISTRY_KEY)
    return WireFormat(access) if isinstance(access, RegistryAccess) else None


class WireFormat:
    """Converts values. Its methods may be called from any thread."""

    def __init__(self, access: RegistryAccess) -> None:
        self._access = access
        if not access.headers:
            access.headers.update(_read_ids(access))

    def outgoing(self, topic: str, value: bytes | None) -> bytes | None:
        """Return an event as it is written to `topic`: in Confluent's format.

        While the registry doesn't answer, or refuses the schema, an event whose schema has no id
        yet is written in the plain format, and a warning says so: no write waits for a registry.
        """
        if value is None or not value.startswith(_PLAIN_MARKER):
            return value
        schema_id = self._id_of(topic, value[:_PLAIN_HEADER_BYTES])
        if schema_id is None:
            return value
        return _PREFIX.pack(0, schema_id) + value[_PLAIN_HEADER_BYTES:]

    def incoming(self, value: bytes | None) -> bytes | None:
        """Return a value in the plain format. One of a schema of others stays as it is.

        Raise KafkaFailed if its id isn't known and the registry doesn't answer.
        """
        schema_id = _schema_id(value)
        if value is None or schema_id is None:
            return value
        if schema_id not in self._access.headers:
            self.learn(schema_id)
        header = self._access.headers[schema_id]
        return value if header is None else header + value[_PREFIX.size :]

    def unknown_ids(self, values: Iterable[bytes | None]) -> set[int]:
        """Return the ids in values that incoming() would ask the registry for."""
        ids = {schema_id for value in values if (schema_id := _schema_id(value)) is not None}
        return ids - self._access.headers.keys()

    def learn(self, schema_id: int) -> None:
        """Ask the registry for the schema with an id, and keep what it is.

        Another process of the state folder may know it by now. Raise KafkaFailed if the registry
        doesn't answer.
        """
        from mirrorlog.adapters.schema_registry.registry_client import SchemaRefused, schema_of
        from mirrorlog.codec.events import header_of_schema

        known = _read_ids(self._access).get(schema_id)
        if known is not None:
            self._access.headers[schema_id] = known
            return
        try:
            header = header_of_schema(schema_of(self._access, schema_id))
        except SchemaRefused as error:
            log.warning("events with schema id %d can't be read: %s", schema_id, error.what)
            header = None
        self._access.headers[schema_id] = header
        _save_ids(self._access)

    def _id_of(self, topic: str, header: bytes) -> int | None:
        """Return the id for events with `header` in a topic; None if the registry gives none."""
        access, kind = self._access, (topic, header)
        known = access.ids.get(kind)
        if known is not None:
            return known
        retry_at_s = (access.retry_at_s.get(name, 0.0) for name in (kind, EVERY_KIND))
        if monotonic() < max(retry_at_s):
            return None
        from mirrorlog.adapters.schema_registry.registry_client import (
            SchemaRefused,
            register_schema,
        )
        from mirrorlog.codec.events import schema_with_header

        name, schema = schema_with_header(header)
        subject = f"{topic}-{name}"
        try:
            schema_id = register_schema(access, subject, schema)
        except MirrorlogError as error:
            is_refused = isinstance(error, SchemaRefused)
            access.retry_at_s[kind if is_refused else EVERY_KIND] = monotonic() + _RETRY_S
            self._note_failure(subject if is_refused else access.url, str(error))
            return None
        self._note_answer(subject)
        access.ids[kind] = schema_id
        access.headers[schema_id] = header
        _save_ids(access)
        return schema_id

    def _note_failure(self, subject: str, reason: str) -> None:
        """Log that a registry doesn't answer, or refuses a schema: at once, then less and less."""
        with self._access.reporting:
            line = self._access.reports.failed(subject, reason, now_s=monotonic())
        if line:
            log.warning("events are written in the plain format: %s", line)

    def _note_answer(self, subject: str) -> None:
        with self._access.reporting:
            lines = [
                self._access.reports.worked(name, now_s=monotonic())
                for name in (self._access.url, subject)
            ]
        for line in filter(None, lines):
            log.warning("the schema registry %s: events get Confluent's format", line)


def _schema_id(value: bytes | None) -> int | None:
    """Return the id in front of a value in Confluent's format; None if it is in another one."""
    if value is None or not value.startswith(_MAGIC) or len(value) < _PREFIX.size:
        return None
    _, schema_id = _PREFIX.unpack_from(value)
    return int(schema_id)


def _read_ids(access: RegistryAccess) -> dict[int, bytes | None]:
    """Return the ids that processes of the state folder know, if they are of this registry."""
    if access.ids_file is None:
        return {}
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        document = parse_json(access.ids_file.read_bytes())
        if document["url"] == access.url:
            return {int(key): bytes.fromhex(value) for key, value in document["headers"].items()}
    return {}


def _save_ids(access: RegistryAccess) -> None:
    """Keep the known ids for the next start. Only a hint: a lost file is asked for again."""
    if access.ids_file is None:
        return
    known = _read_ids(access) | access.headers
    headers = {str(key): value.hex() for key, value in known.items() if value}
    document = json.dumps({"url": access.url, "headers": headers})
    with suppress(OSError):
        replace_shared_file(access.ids_file, document.encode())
