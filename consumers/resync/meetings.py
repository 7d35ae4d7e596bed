"""The meetings of a site with its secondaries: looks what is there, and does what `meet` decides.

Every look at a secondary begins with a meeting, before anything is claimed of it or written to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NoReturn, TypeAlias
from uuid import UUID

from mirrorlog.consumers.resync.cycle_steps import Resync
from mirrorlog.consumers.resync.mark_writer import Failed, MarkWriter
from mirrorlog.consumers.resync.meeting import Meeting, MeetingStep, forgotten, meet, resumed
from mirrorlog.consumers.resync.new_secondaries import create_secondaries
from mirrorlog.consumers.resync.primary_checks import PrimaryChecks, check_length
from mirrorlog.consumers.resync.primary_doubts import ChangedBlocks
from mirrorlog.consumers.resync.samples import differing_samples
from mirrorlog.consumers.resync.secondaries import FoundDevice, FoundSecondary, Secondaries
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.seeds import Seeds
from mirrorlog.consumers.state.secondary_state import SecondaryIdentity, SecondaryState
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import CopyDiverged, DeviceFailed
from mirrorlog.ports.devices import BlockDevice

log = logging.getLogger("mirrorlog.site")

SaveStates: TypeAlias = Callable[[Sequence[tuple[Secondary, SecondaryState]]], None]
"""Saves the states of secondaries durably."""
_REFUSALS: Final = (
    MeetingStep.REFUSE,
    MeetingStep.REFUSE_FORMER,
    MeetingStep.REFUSE_AND_FORGET,
)
_NO_ID: Final = str(UUID(int=0))


@dataclass(frozen=True, slots=True)
class _Looked:
    """What is at the address of a secondary, and what is to be done about it."""

    secondary: Secondary
    present: FoundSecondary
    meeting: Meeting


@dataclass(frozen=True, slots=True)
class _Met:
    """A secondary that was looked at.

    new_identity: the mark to write; None to leave the mark as it is. state: the state to save
    then; None to save none.
    """

    secondary: Secondary
    device_name: str | None
    new_identity: SecondaryIdentity | None
    state: SecondaryState | None


class SecondaryMeetings:
    """Meets the secondaries of the site `site`, and marks them.

    save: saves states with the identity that each secondary has at that moment. draw_id: returns a
    new UUID in canonical form.
    """

    def __init__(
        self,
        site: str,
        secondaries: Secondaries,
        save: SaveStates,
        draw_id: Callable[[], str],
        seeds: Seeds,
    ) -> None:
        self._site, self._secondaries = site, secondaries
        self._save, self._draw_id, self._seeds = save, draw_id, seeds
        self._marks: Final = MarkWriter(site, secondaries)
        self._primaries: Final = PrimaryChecks(site, secondaries)

    def meet_all(self, secondaries: Sequence[Secondary]) -> list[Failed]:
        """Meet secondaries. When this returns, their saved states are about what is there.

        Return those of which that isn't so, and why: nothing may be claimed of them or written to
        them. Missing ones are created together. New marks are written for all together, before the
        states that name them. The samples of the last cycles are read at the first meeting, and at
        the first one after a failure.
        """
        failed, looked, met = list[Failed](), list[_Looked](), list[_Met]()
        for secondary in secondaries:
            try:
                looked.append(self._look(secondary))
            except DeviceFailed as error:
                failed.append((secondary, error))
        failed += create_secondaries(
            self._secondaries,
            [look.secondary for look in looked if look.meeting.step is MeetingStep.CREATE],
        )
        unable = {secondary for secondary, _ in failed}
        for seen in looked:
            try:
                if seen.secondary not in unable:
                    met.append(self._take(seen))
            except DeviceFailed as error:
                failed.append((seen.secondary, error))
        unmarked = self._marks.write(
            [
                (outcome.secondary, outcome.new_identity)
                for outcome in met
                if outcome.new_identity is not None
            ]
        )
        lost = {secondary for secondary, _ in unmarked}
        met = [outcome for outcome in met if outcome.secondary not in lost]
        for outcome in met:
            is_new = outcome.new_identity is not None and outcome.state is None
            outcome.secondary.note_marked(is_new=is_new)
        self._save(
            [(outcome.secondary, outcome.state) for outcome in met if outcome.state is not None]
        )
        for outcome in met:
            try:
                self._read_samples(outcome.secondary)
            except DeviceFailed as error:
                failed.append((outcome.secondary, error))
            else:
                outcome.secondary.note_met(outcome.device_name)
        return failed + unmarked

    def let_go(self, secondary: Secondary) -> None:
        """Give up the lock of a secondary. It is met again before anything is claimed of it."""
        self._secondaries.release(secondary.volume)
        secondary.note_new_connection()

    def forget(self, secondary: Secondary) -> None:
        """Give up the lock of a secondary for which the site works no more."""
        self.let_go(secondary)
        self._primaries.renew(secondary.volume)

    def start_over(self, secondary: Secondary, reason: str) -> list[Failed]:
        """Count nothing as known of a secondary that was met.

        It gets a new mark and an empty state. Return it if the mark can't be written.
        """
        identity = secondary.identity
        assert identity is not None
        identity = replace(identity, secondary_id=self._draw_id(), epoch=0)
        failed = self._marks.write([(secondary, identity)])
        if not failed:
            self._note_unknown(secondary, reason)
            state = forgotten(secondary.volume, secondary.saved, identity)
            self._save([(secondary, state)])
        return failed

    def begin_cycles(
        self, cycles: Sequence[tuple[Secondary, Resync]], changed: ChangedBlocks
    ) -> list[Failed]:
        """Count one more cycle in the mark of each secondary, durably.

        The first cycle of a secondary that was just marked isn't counted, if it copies what the log
        names: the new mark says already that nothing from before is known (meeting.py).

        changed: returns the blocks that the log names as changed since the applied position.
        Return the secondaries whose cycle can't begin, and why: the primary isn't the one that
        it was, or the mark can't be written.
        """
        failed = self.check_primaries(cycles, changed)
        unable = {secondary for secondary, _ in failed}
        counted = [
            secondary
            for secondary, step in cycles
            if secondary not in unable and not (secondary.is_just_marked and step.blocks)
        ]
        return failed + self.count_cycles(counted)

    def count_chunk(self, secondary: Secondary) -> None:
        """Count one more chunk of a copy in the mark of the secondary, durably.

        The state that is saved then names it. Raise DeviceFailed if the mark can't be written.
        """
        self._marks.write_together([_counted(secondary)])

    def check_primaries(
        self, cycles: Sequence[tuple[Secondary, Resync]], changed: ChangedBlocks
    ) -> list[Failed]:
        """Check the primaries of cycles that write nothing to their secondaries yet.

        Return the secondaries whose blocks can't be read, and why: the primary isn't the one that
        it was. changed: as for begin_cycles().
        """
        failed = list[Failed]()
        for secondary, step in cycles:
            assert secondary.identity is not None
            try:
                primary = self._primaries.check(secondary, step, changed)
            except DeviceFailed as error:
                failed.append((secondary, error))
            else:
                secondary.note_identity(replace(secondary.identity, primary=primary))
        return failed

    def count_cycles(self, secondaries: Sequence[Secondary]) -> list[Failed]:
        """Count one more cycle in the mark of each secondary, durably. The primaries aren't needed.

        Return the secondaries whose mark can't be written, and why.
        """
        return self._marks.write([_counted(secondary) for secondary in secondaries])

    def open_both(self, secondary: Secondary) -> tuple[BlockDevice, BlockDevice]:
        """Open the primary for reading and the secondary, which was met, for writing.

        Raise DeviceFailed unless they are what they were when they were met.
        """
        volume = secondary.volume
        primary = self._secondaries.open_primary(volume)
        try:
            device = self.open_secondary(secondary)
        except BaseException:
            primary.close()
            raise
        try:
            check_length(volume, primary.size_bytes)
            if device.identity.overlaps(primary.identity):
                raise DeviceFailed(
                    "the secondary is the volume's primary, or lies on the same storage",
                    where=self._where(volume),
                    next="Give the secondary a file or device of its own.",
                )
        except BaseException:
            primary.close()
            device.close()
            raise
        return primary, device

    def open_secondary(self, secondary: Secondary) -> BlockDevice:
        """Open the secondary, which was met, for writing.

        Raise DeviceFailed unless it is what it was when it was met.
        """
        volume, identity = secondary.volume, secondary.identity
        assert identity is not None
        device = self._secondaries.open(volume)
        now = device.size_bytes, device.identity.lasting
        if now != (identity.size_bytes, identity.lasting):
            device.close()
            raise DeviceFailed(
                "the secondary was replaced while the site looked", where=self._where(volume)
            )
        return device

    def _look(self, secondary: Secondary) -> _Looked:
        """Look at a secondary. Raise DeviceFailed if the meeting refuses it."""
        volume = secondary.volume
        present = self._secondaries.find(volume)
        meeting = meet(
            self._marks.mark(volume, _NO_ID, 0),
            volume,
            secondary.saved,
            present,
            primary=None if secondary.is_met else self._primaries.find(volume),
            is_state_damaged=secondary.is_damaged,
            has_seed=self._seeds.has_seed(volume),
        )
        if meeting.step in _REFUSALS:
            self._refuse(secondary, meeting)
        if present.device is not None and present.device.is_new:
            secondary.note_new_connection()
        return _Looked(secondary, present, meeting)

    def _take(self, looked: _Looked) -> _Met:
        """Lock a secondary that is there, or was created, and grow it if the meeting says so."""
        secondary, meeting, device = looked.secondary, looked.meeting, looked.present.device
        volume = secondary.volume
        if meeting.step is MeetingStep.CREATE:
            device = self._secondaries.find(volume).device
        if device is None:
            raise DeviceFailed("the secondary is gone again", where=self._where(volume))
        self._secondaries.hold(volume)
        if device.size_bytes < volume.size_bytes:
            self._secondaries.grow(volume)
            device = replace(device, size_bytes=volume.size_bytes)
        secondary.note_zeroed(device.is_zeroed and not secondary.is_damaged)
        return self._met(secondary, meeting, device, looked.present.mark)

    def _met(
        self,
        secondary: Secondary,
        meeting: Meeting,
        device: FoundDevice,
        mark: SecondaryMark | None,
    ) -> _Met:
        """Return what is still to do for a secondary that is there, locked and large enough."""
        volume, saved, known = secondary.volume, secondary.saved, secondary.identity
        if meeting.step in (MeetingStep.SAME, MeetingStep.GROW, MeetingStep.RESUME):
            assert saved is not None and saved.identity is not None and mark is not None
            if (device.size_bytes, mark.epoch) == (saved.identity.size_bytes, saved.identity.epoch):
                secondary.note_identity(saved.identity)
            else:
                secondary.note_identity(
                    replace(saved.identity, size_bytes=device.size_bytes, epoch=mark.epoch)
                )
            is_behind = meeting.step is MeetingStep.RESUME
            return _Met(
                secondary,
                device.device_name,
                None,
                resumed(saved, mark.epoch) if is_behind else None,
            )
        if (
            saved is None
            and meeting.step is MeetingStep.FIRST_USE
            and mark is not None
            and known is not None
            and mark.secondary_id == known.secondary_id
        ):
            return _Met(
                secondary, device.device_name, None, None
            )  # marked at an earlier look, and nothing saved yet
        identity = SecondaryIdentity(
            secondary_id=self._draw_id(),
            epoch=0,
            size_bytes=device.size_bytes,
            lasting=device.identity.lasting,
            primary=None if saved is None or saved.identity is None else saved.identity.primary,
        )
        if meeting.step is MeetingStep.START_OVER:
            self._note_unknown(secondary, meeting.reason)
            state = forgotten(volume, saved, identity)
            return _Met(secondary, device.device_name, identity, state)
        if meeting.reason:
            log.warning("%s at %s: %s", volume.volume, self._site, meeting.reason)
        return _Met(secondary, device.device_name, identity, saved)

    def _note_unknown(self, secondary: Secondary, reason: str) -> None:
        volume = secondary.volume
        what = "compared" if self._seeds.is_compared(volume) else "copied"
        log.warning("%s at %s: %s; everything is %s", volume.volume, self._site, reason, what)
        secondary.note_unknown(reason)

    def _refuse(self, secondary: Secondary, meeting: Meeting) -> NoReturn:
        volume, saved = secondary.volume, secondary.saved
        self._secondaries.release(volume)
        if (
            meeting.step is MeetingStep.REFUSE_AND_FORGET
            and saved is not None
            and (saved.applied_position is not None or saved.cycle_through is not None)
        ):
            if saved.identity is not None:
                secondary.note_identity(saved.identity)
            secondary.note_unknown(meeting.reason)
            self._save([(secondary, forgotten(volume, saved, saved.identity))])
        kind = CopyDiverged if meeting.step is MeetingStep.REFUSE_FORMER else DeviceFailed
        raise kind(meeting.reason, where=self._where(volume), next=meeting.next)

    def _read_samples(self, secondary: Secondary) -> None:
        """Read the samples of the last cycles again, unless that was done."""
        saved = secondary.saved
        if not secondary.is_met and saved is not None and saved.samples:
            with self._secondaries.open(secondary.volume) as device:
                secondary.note_differing(differing_samples(device, saved.samples))

    def _where(self, volume: Volume) -> str:
        return f"volume {volume.volume} at {self._site}"


def _counted(secondary: Secondary) -> tuple[Secondary, SecondaryIdentity]:
    """Return a secondary that was met, and its identity with one more cycle counted."""
    identity = secondary.identity
    assert identity is not None
    return secondary, replace(identity, epoch=identity.epoch + 1)
