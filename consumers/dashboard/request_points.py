"""The questions that requests ask, out of their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from multidict import MultiMapping

from mirrorlog.adapters.http.request_parameters import page_limit, single_values
from mirrorlog.changed.formats import FORMATS, check_format
from mirrorlog.changed.points import Point, parse_point
from mirrorlog.units import parse_size

MAX_ENTRIES: Final = 1000
"""The most extents in one answer to the page. A download holds all."""
_DEFAULT_ENTRIES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedSpan:
    """The range of a question about one volume."""

    since: Point
    until: Point


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPage:
    """A page of the extents that changed. offset: the byte of the volume that it begins with."""

    asked: AskedSpan
    offset: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedDownload:
    """All extents that changed, in one of changed.formats.FORMATS."""

    asked: AskedSpan
    format: str


def asked_range(query: MultiMapping[str], now_us: int, default_since: str) -> AskedSpan:
    """Return the range that the parameters `since` and `until` name. Raise BadUse."""
    return _range(single_values(query, ("since", "until")), now_us, default_since)


def asked_page(query: MultiMapping[str], now_us: int) -> AskedPage:
    """Return the page that the parameters name. Raise BadUse."""
    given = single_values(query, ("since", "until", "offset", "limit"))
    limit = page_limit(given, _DEFAULT_ENTRIES, least=1, most=MAX_ENTRIES)
    offset = parse_size(given.get("offset", "0"))
    return AskedPage(asked=_range(given, now_us, "origin"), offset=offset, limit=limit)


def asked_download(query: MultiMapping[str], now_us: int) -> AskedDownload:
    """Return the download that the parameters name. Raise BadUse."""
    given = single_values(query, ("since", "until", "format"))
    name = given.get("format", "json")
    check_format(name, FORMATS)
    return AskedDownload(asked=_range(given, now_us, "origin"), format=name)


def _range(given: dict[str, str], now_us: int, default_since: str) -> AskedSpan:
    return AskedSpan(
        since=parse_point(given.get("since", default_since), now_us),
        until=parse_point(given.get("until", "now"), now_us),
    )
