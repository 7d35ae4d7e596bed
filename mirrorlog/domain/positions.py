"""Positions: offsets of a partition of the commands topic, which order a volume's writes."""

from __future__ import annotations

from typing import Final

NOTHING: Final = -1
"""The position before the first one."""
