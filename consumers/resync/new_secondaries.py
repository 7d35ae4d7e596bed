"""Creates the missing secondaries of a site, many together."""

from __future__ import annotations

from collections.abc import Sequence

from mirrorlog.consumers.resync.mark_writer import Failed
from mirrorlog.consumers.resync.secondaries import Secondaries
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.errors import DeviceFailed


def create_secondaries(devices: Secondaries, missing: Sequence[Secondary]) -> list[Failed]:
    """Create secondaries, durably and together. If that fails, one by one.

    Return those that can't be created, and why.
    """
    try:
        devices.create_all([secondary.volume for secondary in missing])
    except DeviceFailed as error:
        if len(missing) == 1:
            return [(missing[0], error)]
        return [failed for one in missing for failed in create_secondaries(devices, [one])]
    return []
