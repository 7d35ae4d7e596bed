"""One secondary while its site runs: what is saved of it, what it does now, and when it is due.

Other objects read a Secondary and call its methods; none writes its fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from mirrorlog.consumers.resync.copy_counts import CopyCounts
from mirrorlog.consumers.resync.copy_speed import CopyMeter
from mirrorlog.consumers.resync.cycle_steps import Idle, Resync
from mirrorlog.consumers.state.secondary_state import (
    Sample,
    SecondaryIdentity,
    SecondaryState,
    SecondaryStateStore,
)
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.heads import ForkHead, Watermark

FINAL_STATES: Final = (SiteState.CONSISTENT, SiteState.RETIRED, SiteState.DETACHED)


class Secondary:
    """One secondary of a site.

    Only `saved` survives the process; the state store holds the same. Attributes to read:

    volume: the volume as it was described last.
    saved: the state that is saved; None if nothing is known of the secondary.
    status: what the secondary does now, as the site reports it.
    reason: why a rung above CHANGED was taken, until the secondary is consistent again.
    is_zeroed: the whole secondary is known to read as zeros.
    is_loaded: the saved state was read. Before that, `saved` says nothing.
    is_unloaded: it was read before, and may be another one now.
    is_damaged: the saved state can't be trusted, and no other was saved since.
    identity: what was met last, which the next saved state names; None before the first meeting.
    device_name: see FoundDevice.
    is_met: the secondary was met since the site's start, and since it last failed.
    is_just_marked: the last look gave it a new mark of epoch 0, and no state was saved since.
    is_check_due: it is to be met again, although the log says nothing new of it.
    differing: the samples that differed when they were read.
    unknown_reason: why nothing is known of the contents, until everything was copied.
    read_end: where the commands topic ended after the last read of a cycle; None until the site has
        asked for it.
    staged: the state that the secondary and what its journal holds have together, while a cycle is
        staged; None if none is.
    group_reason: why the volume's group reaches no new common point; None if it does, or if there
        is no group.
    counts: what was copied since the site's start.
    applied_at_us: when a new applied position was last saved, in microseconds since 1970; None if
        there is none. After a start, when the state was last saved.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.saved: SecondaryState | None = None
        self.status = Idle(SiteState.WAITING)
        self.reason: str | None = None
        self.is_zeroed = self.is_damaged = self.is_met = self.is_loaded = False
        self.is_unloaded = self.is_check_due = self.is_just_marked = False
        self.identity: SecondaryIdentity | None = None
        self.staged: SecondaryState | None = None
        self.device_name: str | None = None
        self.differing: tuple[Sample, ...] = ()
        self.unknown_reason: str | None = None
        self.read_end: int | None = None
        self.applied_at_us: int | None = None
        self.counts = CopyCounts()
        self.copying: CopyMeter | None = None
        self.advice: str | None = None
        self.group_reason: str | None = None
        self._retry_at_s = 0.0
        self._seen_watermark: Watermark | None = None

    @property
    def state(self) -> SiteState:
        """The state that the site reports, which `status` names."""
        return self.status.state

    def goes_on_with(self, step: Resync) -> bool:
        """Return whether the step is the next turn of a copy of everything that has begun here."""
        is_begun = self.copying is not None and self.state is SiteState.SYNCING
        return is_begun and step.running.copied_bytes is not None

    @property
    def blocks_copied(self) -> int:
        """How many blocks were written since the site's start."""
        return self.counts.blocks

    @property
    def bytes_copied(self) -> int:
        """How many bytes were written since the site's start."""
        return self.counts.written_bytes

    @property
    def reported_id(self) -> str | None:
        """What a fork must find at the secondary; None unless the site has just met it."""
        if not self.is_met or self.identity is None:
            return None
        return self.device_name or self.identity.secondary_id

    @property
    def is_awaiting_outcomes(self) -> bool:
        """Return whether only a host's fork outcomes are open: idle, with all blocks proved."""
        saved = self.saved
        if saved is None or saved.suspect_after is not None or saved.cycle_through is not None:
            return False
        return self.state is SiteState.SETTLING

    def describe(self, volume: Volume) -> None:
        """Take a new description of the volume."""
        self.volume = volume

    def note_saved(self, state: SecondaryState | None) -> None:
        """Note the state that the store holds now."""
        if state is None or state.applied_position is None:
            self.applied_at_us = None
        elif self.saved is None or self.saved.applied_position != state.applied_position:
            self.applied_at_us = state.updated_at_us
        self.saved, self.is_damaged, self.is_loaded = state, False, True
        self.is_just_marked = False
        self.is_unloaded = False

    def note_unloaded(self) -> None:
        """Note that the saved state is to be loaded again before the next step."""
        self.is_loaded, self.is_unloaded = False, True

    def note_damaged(self, reason: str) -> None:
        """Note that the saved state is damaged: nothing is known of the secondary now."""
        self.saved, self.reason, self.is_damaged, self.is_loaded = None, reason, True, True

    def note_identity(self, identity: SecondaryIdentity) -> None:
        """Note what the secondary is. States that are saved from now on name it."""
        self.identity = identity

    def expect_other_primary(self) -> None:
        """Forget which primary blocks were read from: another copy was promoted."""
        if self.identity is not None:
            self.identity = replace(self.identity, primary=None)

    def note_marked(self, *, is_new: bool) -> None:
        """Note a look at the mark. is_new: it was written now, and no state is saved under it."""
        self.is_just_marked = is_new

    def note_met(self, device_name: str | None) -> None:
        """Note that the saved state is about the secondary that is there."""
        self.is_met, self.device_name, self.is_check_due = True, device_name, False

    def note_check_due(self) -> None:
        """Note that it is time to look whether the secondary is still there, and the same."""
        self.is_check_due = True

    def note_new_connection(self) -> None:
        """Note that another secondary may be there than the one that was met."""
        self.is_met = False

    def note_differing(self, samples: tuple[Sample, ...]) -> None:
        """Note the samples that differ from what the site wrote."""
        self.differing = samples

    def note_unknown(self, reason: str) -> None:
        """Note that nothing is known of the secondary's contents."""
        self.unknown_reason = self.reason = reason
        self.differing = ()

    def note_group(self, reason: str | None) -> None:
        """Note why the group reaches no new common point; None if it does."""
        self.group_reason = reason

    def note_zeroed(self, is_zeroed: bool) -> None:
        """Note whether the whole secondary reads as zeros."""
        self.is_zeroed = is_zeroed

    def note_reading(self) -> None:
        """Note that the secondary was read: a read end from before says nothing of that."""
        self.read_end = None

    def note_read_end(self, end_position: int) -> None:
        """Note where the commands topic ends, now that the secondary's reads are over."""
        self.read_end = end_position

    def is_due(self, watermark: Watermark | None) -> bool:
        """Return whether another step is possible: after a failure, a cycle, or a new watermark.

        A secondary in a final state needs more than a watermark: something new in its own log.
        """
        if self._retry_at_s > 0 or self._seen_watermark is None:
            return self._retry_at_s > 0 or watermark is not None
        return watermark != self._seen_watermark and not self.is_final

    @property
    def is_final(self) -> bool:
        """Whether nothing is due before the log names something new of the volume."""
        return self.state in FINAL_STATES and self.staged is None

    def begin_look(self, now_s: float, watermark: Watermark | None) -> bool:
        """Begin to look for the next step; False while the secondary waits after a failure."""
        if now_s < self._retry_at_s:
            return False
        self._retry_at_s = 0.0
        self._seen_watermark = watermark
        return True

    def look_again(self) -> None:
        """Look for the next step again, although the log hasn't grown."""
        self._seen_watermark = None

    def go_idle(self, step: Idle) -> None:
        """Note that nothing is to be done until the log grows."""
        self.status, self.advice = step, step.advice
        if step.awaits_source:
            self._seen_watermark = None

    def pause(self, step: Idle) -> None:
        """Stay as it is although a cycle runs: an operator has paused it."""
        self.copying = None
        self.go_idle(step)

    def begin_cycle(self, reason: str | None) -> None:
        """Note that a resync begins. From here on the secondary is inconsistent."""
        self.status, self.advice = Idle(SiteState.SYNCING, reason), None
        self.read_end = None
        if reason is not None:
            self.reason = reason

    def begin_copy(self, total_bytes: int | None, now_s: float) -> None:
        """Note that blocks are about to be written.

        total_bytes: what is to be copied; None if nobody knows.
        now_s: of the monotonic clock.
        """
        self.is_zeroed = False
        self.copying = CopyMeter(now_s, total_bytes)

    def note_copied(self, batch: CopyCounts, now_s: float) -> None:
        """Count a batch that was copied."""
        if self.copying is not None:
            self.copying.note_copied(max(batch.read_bytes, batch.compared_bytes), now_s)
        self.counts += batch

    def note_in_place(self, reason: str) -> None:
        """Note why a cycle isn't staged. Reports say so until the secondary is consistent again."""
        self.reason = reason

    def begin_staging(self, total_bytes: int, now_s: float) -> None:
        """Note that blocks are about to be staged: the secondary stays as it is.

        A read end from before says nothing of these reads. now_s: of the monotonic clock.
        """
        self.read_end = None
        self.copying = CopyMeter(now_s, total_bytes)

    def note_staged(self, state: SecondaryState | None) -> None:
        """Note what the secondary and its journal are together; None if nothing is staged."""
        self.staged, self.copying = state, None

    def end_copy(self) -> None:
        """Note that all blocks of the cycle are written. They aren't durable yet."""
        self.copying = None

    def end_cycle(self) -> None:
        """Note that all blocks of the cycle are durable. Its proof is still missing."""
        self.unknown_reason, self.differing, self.copying = None, (), None
        self.status = Idle(SiteState.SETTLING)

    def note_proved(self) -> None:
        """Note that the cycle that has ended is proved. The log may name more already."""
        self.status = Idle(SiteState.CONSISTENT)
        self.look_again()

    def stop(
        self,
        reason: str,
        retry_at_s: float,
        advice: str | None = None,
        state: SiteState = SiteState.STOPPED,
    ) -> None:
        """Stay as it is after a device failed, until `retry_at_s` of the monotonic clock.

        advice: what an operator can do; None if nobody knows. state: to report.
        """
        self.status, self.advice, self.copying = Idle(state, reason), advice, None
        self.is_met = False
        self._retry_at_s = retry_at_s

    def forget_reason(self) -> None:
        """Forget the reason for the last resync: the secondary is consistent again."""
        self.reason = None


def save_states(
    store: SecondaryStateStore, now_us: int, states: Sequence[tuple[Secondary, SecondaryState]]
) -> None:
    """Save states durably, with the identities that their secondaries have now, and note them.

    A common point at which a secondary isn't any more is left out.

    now_us: the time to save as theirs. Raise DeviceFailed.
    """
    stamped = [
        (
            secondary,
            replace(
                state,
                updated_at_us=now_us,
                identity=secondary.identity,
                common_point=state.common_point if state.common_point_id else None,
            ),
        )
        for secondary, state in states
    ]
    store.save_all([state for _, state in stamped])
    for secondary, state in stamped:
        secondary.note_saved(state)


def needed_after(saved: SecondaryState | None) -> int:
    """Return the position above which the site still needs the log's records.

    They are needed for the next cycle, or for the proof of the last ones.
    """
    if saved is None or saved.known_position is None:
        return BEFORE_FIRST
    if saved.suspect_after is None:
        return saved.known_position
    return min(saved.suspect_after, saved.known_position)


def split_positions(
    volume: Volume,
    saved: SecondaryState | None,
    fork: ForkHead | None,
    staged: SecondaryState | None = None,
) -> list[int]:
    """Return the positions at which the site splits the log.

    The site asks for the log below and above each of them separately. So it keeps the finer records
    of a roll-up that spans one. staged: see Secondary.
    """
    positions = [volume.origin_position]
    for state in (saved, staged):
        if state is None:
            continue
        named = (state.known_position, state.suspect_after, state.changed_through)
        positions += [position for position in named if position is not None]
    if fork is not None:
        positions.append(fork.after)
    return positions
