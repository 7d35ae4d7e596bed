"""Log positions: a command's position is its offset in its partition of the commands topic."""

from __future__ import annotations

from typing import Final

BEFORE_FIRST: Final = -1
"""The position before a partition's first, and the number before a session's first command."""

OPENED_EARLIER: Final = -2
"""The opening position of a session that was open when an earlier history ended."""
