"""The description of the node's HTTP (OpenAPI 3.1), for programs and for the page /docs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mirrorlog.changed.formats import FORMATS, JSON_FORMATS
from mirrorlog.changed.http import BEGAN_HEADER, CLOCK_HEADER, SINCE_HEADER, UNTIL_HEADER
from mirrorlog.changed.points import AnsweringClock
from mirrorlog.streams.web.request_parameters import MAX_PAGE_ENTRIES

Schema = Mapping[str, Any]
_POINT: Final = (
    "a time (`2026-11-22T18:30:00Z`; `2h ago`), a log position (`@1234`, `1234`), `barrier:NAME`, "
    "`site:NAME`, `origin` or `now`"
)
_CLOCK: Final = {"enum": [clock.value for clock in AnsweringClock]}
_ERROR_CAUSES: Final = {
    400: "a parameter is wrong or unknown",
    401: "the node has a token, and the request doesn't carry it",
    404: "there is no such volume",
    410: "the log no longer reaches that far; `next` says from when on it can answer",
    503: "not now: too many questions, a rebalance, a recovery, a log that isn't complete yet, "
    "or a broker that is away",
}


def openapi() -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mirrorlog node",
            "version": "1",
            "description": "Which blocks of a volume changed between two points. "
            "Every worker of the node answers for every volume.",
        },
        "paths": {
            "/v1/volumes": {"get": _volumes()},
            "/v1/volumes/{volume}/changed": {"get": _changed()},
            "/healthz": {"get": _health()},
        },
        "components": {
            "schemas": {"Error": _ERROR, "Page": _PAGE, "Volumes": _VOLUMES, "Health": _HEALTH},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _volumes() -> Schema:
    return {
        "operationId": "volumes",
        "summary": "The volumes of all partitions, and which worker answers for each",
        "security": [{"token": []}, {}],
        "parameters": [
            _parameter(
                "after",
                _text(),
                "The page begins after the volume of that name: `next` of the page before.",
            ),
            _parameter(
                "limit",
                _integer(1, MAX_PAGE_ENTRIES),
                f"Volumes on a page; the default is {MAX_PAGE_ENTRIES}.",
            ),
        ],
        "responses": {
            "200": _answer("A page of volumes, by name.", "Volumes"),
            **_errors(400, 401, 503),
        },
    }


def _changed() -> Schema:
    text = {"schema": _text()}
    return {
        "operationId": "changed",
        "summary": "The blocks that changed after `since`, through `until`: exactly, at both edges",
        "description": (
            f"Formats {', '.join(JSON_FORMATS)} come in pages. Ask for the next page with `since` "
            "and `until` as they are in the answer (they are positions, so the question stays the "
            "same while writes go on; with `clock` `own`, a time stays a time) and `offset` = "
            "`next`. A Link header has the whole address. "
            "With `limit=0`, and in every other format, the listing is streamed as "
            "`mirrorlog changed` prints it. A stream that breaks off is not the whole listing."
        ),
        "security": [{"token": []}, {}],
        "parameters": [
            {
                "name": "volume",
                "in": "path",
                "required": True,
                "schema": _text(),
                "description": "The name of the volume.",
            },
            _parameter("since", _text("origin"), f"{_POINT}."),
            _parameter(
                "until", _text("now"), "As `since`. `now` is where the volume's commands end."
            ),
            _parameter(
                "format",
                {"enum": list(FORMATS), "default": "json"},
                "As `mirrorlog changed --format`.",
            ),
            _parameter(
                "offset", _text("0"), "The byte that the listing begins with; takes units (`1GiB`)."
            ),
            _parameter(
                "limit",
                _integer(0, MAX_PAGE_ENTRIES),
                "Entries on a page; 0 streams the whole listing.",
            ),
            _parameter(
                "wait", _text("30s"), "How long to wait for the log to be complete through `until`."
            ),
        ],
        "responses": {
            "200": {
                "description": "The blocks.",
                "headers": {
                    SINCE_HEADER: {
                        "schema": _integer(-1),
                        "description": "Of a stream: the position of `since`.",
                    },
                    UNTIL_HEADER: {
                        "schema": _integer(-1),
                        "description": "Of a stream: the position of `until`.",
                    },
                    BEGAN_HEADER: {
                        "schema": _text(),
                        "description": "Of a stream, if the volume was created, or its recorded "
                        "history begins, after the time `since`: when. The answer begins there.",
                    },
                    CLOCK_HEADER: {
                        "schema": _CLOCK,
                        "description": "Of a stream, if `since` or `until` is a time: by which "
                        "clock it was understood.",
                    },
                    "Link": {
                        "schema": _text(),
                        "description": 'Of a page: the next one (`rel="next"`).',
                    },
                },
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Page"}},
                    "text/plain": text,
                    "text/csv": text,
                },
            },
            **_errors(400, 401, 404, 410, 503),
        },
    }


def _health() -> Schema:
    summary = "Whether this worker lives: in its group, and neither recovering nor in a rebalance"
    return {
        "operationId": "health",
        "summary": summary,
        "responses": {
            "200": _answer("It does.", "Health"),
            "503": _answer("It doesn't.", "Health"),
        },
    }


def _answer(description: str, schema: str) -> Schema:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _errors(*statuses: int) -> dict[str, Schema]:
    return {str(status): _answer(_ERROR_CAUSES[status], "Error") for status in statuses}


def _parameter(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _text(default: str | None = None) -> Schema:
    return {"type": "string"} if default is None else {"type": "string", "default": default}


def _integer(least: int, most: int | None = None) -> Schema:
    return {"type": "integer", "minimum": least} | ({} if most is None else {"maximum": most})


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(kind: str) -> Schema:
    return {"type": [kind, "null"]}


_ERROR: Final = _object(
    message_type={"const": "error"}, code=_text(), what=_text(), where=_text(), next=_text()
)
_HEALTH: Final = _object(
    schema_version={"const": 1},
    status={"enum": ["ok", "recovering"]},
    partitions=_array(_integer(0)),
)
_POSITION_OR_TIME: Final = {
    "oneOf": [_integer(-1), _text()],
    "description": "A position; a time if `clock` is `own` and the question named one.",
}
_PAGE: Final = _object(
    schema_version={"const": 1},
    volume=_text(),
    generation=_text(),
    size_bytes=_integer(1),
    block_size=_integer(512),
    since=_POSITION_OR_TIME,
    until=_POSITION_OR_TIME,
    changed_blocks=_integer(0),
    hosts=_array(_text()),
    since_at=_or_null("string"),
    until_at=_or_null("string"),
    volume_began_at=_or_null("string"),
    clock={
        "enum": [*_CLOCK["enum"], None],
        "description": "By which clock times were understood: when the broker took the commands, "
        "or the writes' own times, where a recording was imported. Null: no point is a time.",
    },
    has_more_hosts={"type": "boolean"},
    first_write_at=_or_null("string"),
    last_write_at=_or_null("string"),
    writes=_integer(0),
    format={"enum": list(JSON_FORMATS)},
    offset=_integer(0),
    listing={"description": "An array of the format's entries; of `ebs` its object."},
    next={
        "type": ["integer", "null"],
        "description": "The byte that the next page begins with; null on the last.",
    },
)
_VOLUMES: Final = _object(
    schema_version={"const": 1},
    volumes=_array(
        _object(
            volume=_text(),
            generation=_text(),
            state=_text(),
            size_bytes=_integer(1),
            block_size=_integer(512),
            partition=_integer(0),
            origin_position=_integer(-1),
            created_at=_or_null("string"),
            worker={
                "type": ["string", "null"],
                "description": "Its address; null where none answers at the moment.",
            },
        )
    ),
    next={"type": ["string", "null"], "description": "`after` of the next page; null on the last."},
)
