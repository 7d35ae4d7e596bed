"""Positions in the log: offsets of the commands topic's partition that holds a volume's commands."""

from __future__ import annotations

from typing import Final

BEFORE_FIRST: Final = -1
"""The position before the first one of a partition, and the number before a session's first command."""
