"""The parameters of a request, checked: an unknown or repeated one is refused, not ignored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from multidict import MultiMapping

from mirrorlog.errors import BadUse

_LIMIT_DIGITS: Final = 9


def single_values(query: MultiMapping[str], known: Collection[str]) -> dict[str, str]:
    """Return the parameters by name. Raise BadUse for one that isn't `known`, or is given twice."""
    for name in query:
        if name not in known:
            raise BadUse(
                f"there is no parameter '{name[:40]}'", next=f"There are {', '.join(known)}."
            )
        if len(query.getall(name)) > 1:
            raise BadUse(f"parameter '{name}' is given more than once")
    return dict(query)


def page_limit(given: Mapping[str, str], default: int, *, least: int, most: int) -> int:
    """Return the parameter `limit`, the most entries on a page; 0 stands for all at once.

    Raise BadUse unless it is a number from `least`, which is 0 or 1, to `most`.
    """
    text = given.get("limit", str(default))
    is_number = text.isascii() and text.isdigit() and len(text) <= _LIMIT_DIGITS
    if not (is_number and least <= int(text) <= most):
        or_all = "" if least else ", or 0 for all at once"
        raise BadUse(f"limit can't be '{text[:40]}'", next=f"Write 1 to {most}{or_all}.")
    return int(text)
