"""The activity log: which regions may hold writes that Kafka doesn't have yet.

A region is durable in the log before the first write to it begins (invariant 1).
docs/decisions/activity-log.md says when it may leave.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Final

from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.folders import StateFile, StateFolder, replace_file
from mirrorlog.producers.durable.activity_format import (
    SLOT_BYTES,
    ActivityEntry,
    ActivityState,
    PreviousLog,
    VolumeActivity,
    pack_log,
    pack_slots,
    read_log,
)

FILE_NAME: Final = "activity.log"
REWRITTEN_SLOTS: Final = 8
"""Entries that fill more slots are written with a new file: that takes fewer syncs than slots."""
SLOTS: Final = 2048
"""The number of slots of a new file: 1 MiB, which takes about as many calls of append()."""


def read_previous_log(folder: StateFolder) -> PreviousLog:
    """Read the log that the session before left in `folder`."""
    return read_log(folder.read(FILE_NAME))


def carry_over(log: PreviousLog, region_bytes: int, known: Container[str]) -> ActivityState:
    """Return the state that the next session's log begins with.

    It holds everything that `log` says may be unpublished, in regions of `region_bytes`: each
    volume with unpublished writes or an open session, known or not; and each volume that is
    covered and still known. After damage no volume is covered.

    known: the names of the volumes that exist.
    """
    state, unsettled = ActivityState(lost=set(log.state.lost)), log.volumes
    for name, activity in log.state.volumes.items():
        if name in unsettled or (activity.covered and name in known):
            state.volumes[name] = VolumeActivity(
                covered=activity.covered and not log.damaged,
                sessions=set(activity.sessions),
                regions=_rescaled(
                    activity.regions, old_bytes=log.region_bytes, new_bytes=region_bytes
                ),
                whole_volume=activity.whole_volume,
                known_through=activity.known_through,
                primary_id=activity.primary_id,
            )
    return state


def _rescaled(regions: Iterable[int], *, old_bytes: int, new_bytes: int) -> set[int]:
    """Return the regions of `new_bytes` that hold the bytes of regions of `old_bytes`."""
    if old_bytes == new_bytes:
        return set(regions)
    return {
        new
        for old in regions
        for new in range(old * old_bytes // new_bytes, -(-(old + 1) * old_bytes // new_bytes))
    }


class ActivityLog:
    """The log of one session. The caller lets only one thread at a time call it.

    state: what the log says. Only append() changes it.
    """

    def __init__(
        self,
        folder: StateFolder,
        session: str,
        region_bytes: int,
        state: ActivityState,
        slots: int = SLOTS,
    ) -> None:
        """Replace the log in `folder` by a new one that says `state`.

        A crash leaves either the old log or the new one. Raise DeviceFailed if it can't be written.
        """
        self._folder: Final = folder
        self._session: Final = session
        self._region_bytes: Final = region_bytes
        self._slots: Final = slots
        self._failed = False
        self.state: Final = state
        self._file = self._rewrite()

    def append(self, entries: Iterable[ActivityEntry]) -> None:
        """Add the entries in this order, and make them durable.

        Raise DeviceFailed if that fails, and from then on always. After a failed write nobody knows
        what the file holds. The entries from before are still in it, and no more are added; so no
        write begins in a region that the file doesn't name.
        """
        if self._failed:
            raise DeviceFailed(
                "the activity log failed earlier, and no write may begin that it can't remember",
                where=FILE_NAME,
                next="Repair the file system of the host's state folder, then start the host "
                "again.",
            )
        pending = list(entries)
        for entry in pending:
            self.state.apply(entry)
        self._failed = True
        slots = list(pack_slots(pending, self._session, self._used + 1))
        if len(slots) > REWRITTEN_SLOTS or self._used + len(slots) > self._capacity:
            self._file.close()
            self._file = self._rewrite()
        else:
            for slot in slots:
                self._file.pwrite(SLOT_BYTES * (1 + self._used), slot)
                self._file.sync()
                self._used += 1
        self._failed = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rewrite(self) -> StateFile:
        """Replace the file by one that says `state`; return it open."""
        content, self._used = pack_log(
            self.state, self._session, region_bytes=self._region_bytes, slots=self._slots
        )
        self._capacity = len(content) // SLOT_BYTES - 1
        return replace_file(self._folder, FILE_NAME, content)
