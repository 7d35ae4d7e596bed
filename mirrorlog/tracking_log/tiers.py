"""The tiers of the tracking log. The settings name them, and need no bitmaps for that."""

from __future__ import annotations

from typing import Final

TIERS: Final = ("second", "minute", "hour", "day")
"""Names of the tiers. Flushes write to the first tier; roll-ups write to the others."""
