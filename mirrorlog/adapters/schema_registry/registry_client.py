"""Asks a schema registry with Confluent's interface for ids and schemas.

Interface: "Schema Registry API Reference" of Confluent Platform: POST /subjects/SUBJECT/versions
registers a schema and returns its id, and the id that it has if it is there already; GET
/schemas/ids/ID returns a schema.
"""

from __future__ import annotations

import json
import ssl
from base64 import b64encode
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import BaseHandler, HTTPSHandler, Request, build_opener

from mirrorlog.adapters.http.redirects import NoRedirects
from mirrorlog.errors import BadUse, KafkaFailed, MirrorlogError, in_words
from mirrorlog.json_text import parse_json
from mirrorlog.registry_access import RegistryAccess

_TIMEOUT_S: Final = 2.0
_MAX_ANSWER_BYTES: Final = 1 << 20
_MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
_CHECK: Final = "Check schema_registry_url, its user and its CA, and that the registry runs."


class SchemaRefused(BadUse):
    """The registry doesn't take a schema, or doesn't know an id."""


def register_schema(access: RegistryAccess, subject: str, schema: str) -> int:
    """Return the id of a schema under a subject, and register it if it isn't there.

    schema: Avro, as JSON. Raise SchemaRefused if it isn't compatible with the subject's other
    versions, KafkaFailed if the registry doesn't answer.
    """
    answer = _ask(access, f"/subjects/{quote(subject, safe='')}/versions", {"schema": schema})
    return _number(answer.get("id"), access)


def schema_of(access: RegistryAccess, schema_id: int) -> str:
    """Return the schema with an id, as JSON.

    Raise SchemaRefused if there is none, or it is no Avro; KafkaFailed as register_schema.
    """
    answer = _ask(access, f"/schemas/ids/{schema_id}", None)
    schema = answer.get("schema")
    if not isinstance(schema, str) or answer.get("schemaType", "AVRO") != "AVRO":
        raise SchemaRefused(f"the schema with id {schema_id} is no Avro", where=access.url)
    return schema


def _ask(access: RegistryAccess, path: str, fields: dict[str, str] | None) -> dict[str, Any]:
    headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
    if access.user_info:
        code = b64encode(access.user_info.encode()).decode()
        headers["Authorization"] = f"Basic {code}"
    body = None if fields is None else json.dumps(fields).encode()
    request = Request(access.url.rstrip("/") + path, body, headers)
    try:
        handlers: list[BaseHandler] = [NoRedirects()]
        if access.url.startswith("https:"):
            handlers.append(HTTPSHandler(context=ssl.create_default_context(cafile=access.ca)))
        opener = build_opener(*handlers)
        with opener.open(request, timeout=_TIMEOUT_S) as response:
            answer = parse_json(response.read(_MAX_ANSWER_BYTES))
    except HTTPError as error:
        with error:
            raise _refusal(error, access, path) from None
    except (OSError, ValueError) as error:
        raise KafkaFailed(
            f"the schema registry doesn't answer: {in_words(error)}", where=access.url, next=_CHECK
        ) from None
    if not isinstance(answer, dict):
        raise KafkaFailed("the schema registry answers no object", where=access.url, next=_CHECK)
    return answer


def _refusal(error: HTTPError, access: RegistryAccess, path: str) -> MirrorlogError:
    """Return the error for a status. 404, 409 and 422 are about the schema, others about access."""
    if error.code in (404, 409, 422):
        return SchemaRefused(
            f"the schema registry refuses {path[:100]}: status {error.code}",
            where=access.url,
            next="Look at the versions and the compatibility of the subject: BACKWARD and FULL "
            "take mirrorlog's contracts.",
        )
    what = f"the schema registry answers with status {error.code}"
    return KafkaFailed(what, where=access.url, next=_CHECK)


def _number(value: object, access: RegistryAccess) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise KafkaFailed("the schema registry answers no id", where=access.url, next=_CHECK)
    return value
