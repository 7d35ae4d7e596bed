"""A request's parameters, read strictly: what isn't understood is refused, never passed over."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from multidict import MultiMapping

from mirrorlog.changed.formats import FORMATS, JSON_FORMATS, check_format
from mirrorlog.changed.points import Point, parse_point
from mirrorlog.errors import BadUse
from mirrorlog.units import parse_duration_s, parse_size

MAX_PAGE_ENTRIES: Final = 10_000
"""Entries on a page."""
_CHANGED: Final = ("since", "until", "format", "offset", "limit", "wait")
_VOLUMES: Final = ("after", "limit")


@dataclass(frozen=True, slots=True)
class ChangedQuery:
    """What is asked of one volume. limit: entries of a page; 0 where the whole listing is to be streamed."""

    since: Point
    until: Point
    format: str
    offset: int
    limit: int
    wait_s: float


def parse_changed_query(
    query: MultiMapping[str], now_us: int, wait_at_most_s: float
) -> ChangedQuery:
    """The parameters of `changed`; BadUse that names the one that is wrong."""
    given = _once(query, _CHANGED)
    name = given.get("format", "json")
    check_format(name, FORMATS)
    limit = _number(given, "limit", MAX_PAGE_ENTRIES if name in JSON_FORMATS else 0)
    if limit and name not in JSON_FORMATS:
        raise BadUse(
            f"format '{name}' doesn't come in pages",
            next=f"Leave limit out; {', '.join(JSON_FORMATS)} do.",
        )
    return ChangedQuery(
        since=parse_point(given.get("since", "origin"), now_us),
        until=parse_point(given.get("until", "now"), now_us),
        format=name,
        offset=parse_size(given.get("offset", "0")),
        limit=limit,
        wait_s=min(parse_duration_s(given["wait"]), wait_at_most_s)
        if "wait" in given
        else wait_at_most_s,
    )


def parse_volumes_query(query: MultiMapping[str]) -> tuple[str, int]:
    """(the name after which the page begins, how many volumes at most)."""
    given = _once(query, _VOLUMES)
    limit = _number(given, "limit", MAX_PAGE_ENTRIES)
    if not limit:
        raise BadUse("limit can't be 0", next=f"Write 1 to {MAX_PAGE_ENTRIES}.")
    return given.get("after", ""), limit


def _once(query: MultiMapping[str], known: Collection[str]) -> dict[str, str]:
    for name in query:
        if name not in known:
            raise BadUse(
                f"there is no parameter '{name[:40]}'", next=f"There are {', '.join(known)}."
            )
        if len(query.getall(name)) > 1:
            raise BadUse(f"parameter '{name}' is given more than once")
    return dict(query)


def _number(given: dict[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= MAX_PAGE_ENTRIES):
        raise BadUse(
            f"{name} can't be '{text[:40]}'",
            next=f"Write 1 to {MAX_PAGE_ENTRIES}, or 0 for all at once.",
        )
    return int(text)
