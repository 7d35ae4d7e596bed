"""The activity log: what a host may have done to its volumes that Kafka doesn't know yet, durable before it is done."""

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
SLOTS: Final = 2048
"""Of a new file: 1 MiB, written anew after about as many additions."""


def read_previous_log(folder: StateFolder) -> PreviousLog:
    """What the session before left behind."""
    return read_log(folder.read(FILE_NAME))


def carry_over(leftover: PreviousLog, region_bytes: int, known: Container[str]) -> ActivityState:
    """The state that the next session's log begins with: all that the one before owes, in regions of `region_bytes`.

    Kept: every volume for which something is owed, known or not; every volume that is covered and still known. After
    damage no volume is covered.
    """
    state, owing = ActivityState(lost=set(leftover.state.lost)), leftover.volumes
    for name, volume in leftover.state.volumes.items():
        if name in owing or (volume.covered and name in known):
            regions = _rescaled(volume.regions, leftover.region_bytes, region_bytes)
            covered = volume.covered and not leftover.damaged
            state.volumes[name] = VolumeActivity(
                covered, set(volume.sessions), regions, volume.whole_volume
            )
    return state


def _rescaled(regions: Iterable[int], old_bytes: int, new_bytes: int) -> set[int]:
    """The same bytes in regions of another size, rounded outwards."""
    if old_bytes == new_bytes:
        return set(regions)
    return {
        new
        for old in regions
        for new in range(old * old_bytes // new_bytes, -(-(old + 1) * old_bytes // new_bytes))
    }


class ActivityLog:
    """One session's log. The caller sees to it that one thread at a time is in here."""

    def __init__(
        self,
        folder: StateFolder,
        session: str,
        region_bytes: int,
        state: ActivityState,
        slots: int = SLOTS,
    ) -> None:
        """Puts a new log that says `state` in the place of the old one; a crash leaves the one or the other."""
        self._folder: Final = folder
        self._session: Final = session
        self._region_bytes: Final = region_bytes
        self._slots: Final = slots
        self._failed = False
        self.state: Final = state
        self._file = self._write_anew()

    def append(self, entries: Iterable[ActivityEntry]) -> None:
        """Takes the entries, in this order, and makes them durable; those that take away from what is dirty after a crash
        need no sync of their own and go along with others. DeviceFailed where it can't be done, and from then on always.

        After a failed write nobody knows what the file holds: the entries that it held before are still there, and no
        more are added, so no write is begun in a region that isn't in it.
        """
        if self._failed:
            raise DeviceFailed(
                "the activity log failed earlier, and no write may begin that it can't remember",
                where=FILE_NAME,
                next="Mend the file system of the host's state folder, then start the host again.",
            )
        todo = list(entries)
        for entry in todo:
            self.state.apply(entry)
        self._failed = True
        for slot in pack_slots(todo, self._session, self._used + 1):
            if self._used == self._capacity:
                self._file.close()
                self._file = self._write_anew()
                break
            self._file.pwrite(SLOT_BYTES * (1 + self._used), slot)
            self._file.sync()
            self._used += 1
        self._failed = False

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _write_anew(self) -> StateFile:
        content, self._used = pack_log(self.state, self._session, self._region_bytes, self._slots)
        self._capacity = len(content) // SLOT_BYTES - 1
        return replace_file(self._folder, FILE_NAME, content)
