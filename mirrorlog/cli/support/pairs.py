"""Options of the form NAME=VALUE."""

from __future__ import annotations

from collections.abc import Sequence

from mirrorlog.errors import BadUse


def parse_pairs(texts: Sequence[str], form: str) -> dict[str, str]:
    """Parse `name=value` texts. BadUse, which names `form`, if one isn't that."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, value) in zip(texts, pairs, strict=True):
        if not name or not value:
            raise BadUse(f"'{text[:100]}' isn't {form}", next=f"Write it as {form}.")
    return {name: value for name, _, value in pairs}
