"""How long a test waits for a condition before it fails: long enough for any machine.

A deadline only ends a test that would wait for ever. No test judges how fast the machine is.
"""

from __future__ import annotations

from typing import Final

DEADLINE_S: Final = 300.0
"""For any condition that a test waits for."""
