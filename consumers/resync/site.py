"""A site: reads the tracking log and keeps its secondaries up to date by it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from mirrorlog.codec.events import encode
from mirrorlog.consumers.resync.cycle import Begin, Follow, Prove, Rest, Restore, View, next_step
from mirrorlog.consumers.resync.restoration import Copied, restore_all, restore_changed
from mirrorlog.consumers.state.secondary_state import SecondaryState, SecondaryStateStore
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, StateDamaged
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.streams import Publisher, TopicAdmin
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import ForkHead, Watermark
from mirrorlog.tracking_log.keys import missed_log, split_log_name
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.site_log import SiteLog

log = logging.getLogger("mirrorlog.site")

_RETRY_S = 5.0
_AT_ONCE = 64
"""Secondaries whose states are kept together: the more, the fewer waits for the disk; the fewer, the sooner a report."""


@dataclass(slots=True)
class Secondary:
    """One secondary while the site runs; what must survive is in `kept`, and kept by the store."""

    volume: Volume
    kept: SecondaryState | None
    zeroed: bool
    read_end: int | None = None
    resting: Rest = field(default_factory=lambda: Rest(SiteState.WAITING))
    blocks_copied: int = 0
    bytes_copied: int = 0
    reason: str | None = None
    retry_at_s: float = 0.0
    seen_mark: Watermark | None = None
    reported_at_s: float = float("-inf")
    reported: SiteProgress | None = None

    @property
    def is_following(self) -> bool:
        """Whether it rests with nothing suspect, and is only not sure of what hosts will say of their forked writes."""
        kept = self.kept
        is_idle = kept is not None and kept.suspect_after is kept.cycle_through is None
        return is_idle and self.resting.state is SiteState.SETTLING


@dataclass(frozen=True, slots=True)
class SitePorts:
    """What a site needs from outside.

    make_secondary: a new one, all zeros, where there is none yet; asked only while nothing is kept of the volume. One
    that is gone later is an error: its file system may not be mounted, and zeros would pass for what was applied.
    """

    log: LogReader
    catalog: Catalog
    admin: TopicAdmin
    publisher: Publisher
    states: SecondaryStateStore
    open_primary: Callable[[Volume], BlockDevice]
    open_secondary: Callable[[Volume], BlockDevice]
    make_secondary: Callable[[Volume], None]
    clock: Clock


class Site:
    """Every volume of the catalog, mirrored here."""

    def __init__(self, name: str, ports: SitePorts, settings: Settings) -> None:
        self.name, self._ports, self._settings = name, ports, settings
        self.secondaries: dict[str, Secondary] = {}
        self._restless: set[str] = set()
        self._read_since_asked: set[str] = set()

    def turn(self, timeout_s: float) -> None:
        """One round: takes what the log and the catalog say, then one step further with each volume that needs one."""
        touched = self._ports.log.poll(timeout_s, self._wanted)
        self._ports.catalog.poll(0)
        if any(self._is_described_anew(name) for name in touched):
            self._ports.catalog.refresh()
        for name in touched & self.secondaries.keys():
            apart = _apart(self.secondaries[name], self._log(name).fork)
            for log in self._logs(name):
                log.forget_rolled_up(apart)
        touched |= self._follow_catalog() | self._ask_ends()
        self._restless |= touched
        if not self._ports.log.caught_up():
            return
        restless = [
            self.secondaries[name] for name in sorted(self._restless & self.secondaries.keys())
        ]
        due = [each for each in restless if each.volume.volume in touched or self._has_news(each)]
        for start in range(0, len(due), _AT_ONCE):
            self._advance(due[start : start + _AT_ONCE])
        for secondary in restless:
            self._report_and_let_rest(secondary)
        self._ports.publisher.poll(0)

    def _is_described_anew(self, name: str) -> bool:
        """Whether the log was written by a newer description than the site has: of another size, or another generation."""
        known, head = self._ports.catalog.get(name), self._ports.log.logs[name].head
        return known is None or (
            head is not None and head.described_position > known.described_position
        )

    def _wanted(self, record: LogRecord) -> bool:
        known = self.secondaries.get(split_log_name(record.volume)[0])
        return known is None or record.through > _needed_after(known)

    def _follow_catalog(self) -> set[str]:
        changed = set()
        for name, volume in self._ports.catalog.items():
            known = self.secondaries.get(name)
            if known is None or known.volume != volume:
                changed.add(name)
                self._admit(volume, known)
        return changed

    def _admit(self, volume: Volume, known: Secondary | None) -> None:
        secondary = known or Secondary(volume, None, False)
        secondary.volume = volume
        self.secondaries[volume.volume] = secondary
        if known is None:
            self._read_since_asked.add(volume.volume)
        try:
            damaged = known is None and not self._load(secondary)
            if volume.is_retired:
                return
            if secondary.kept is None:
                self._ports.make_secondary(volume)
            with self._ports.open_secondary(volume) as device:
                secondary.zeroed = not damaged and next(device.allocated(), None) is None
        except DeviceFailed as error:
            self._stop(secondary, error)

    def _load(self, secondary: Secondary) -> bool:
        """False where what was kept is damaged: it is never guessed, the secondary counts as unknown and is copied anew."""
        try:
            secondary.kept = self._ports.states.load(secondary.volume.volume)
        except StateDamaged as error:
            log.error("%s", error)
            secondary.reason = str(error)
            return False
        self._forget(secondary)
        return True

    def _has_news(self, secondary: Secondary) -> bool:
        """Whether another look may give another step: after a cycle, a failure, or a watermark."""
        mark = self._ports.log.watermarks.get(secondary.volume.partition)
        return secondary.retry_at_s > 0 or mark != secondary.seen_mark

    def _ask_ends(self) -> set[str]:
        """Where the commands topic ends now that the reads are over: one question per partition, not per volume.

        The volumes whose reads were over.
        """
        topic = self._settings.topics.commands
        waiting = [self.secondaries[name] for name in self._read_since_asked]
        ends = {
            partition: self._ports.admin.end_position(topic, partition)
            for partition in _partitions(waiting)
        }
        for secondary in waiting:
            secondary.read_end = ends[secondary.volume.partition]
        asked, self._read_since_asked = self._read_since_asked, set()
        return asked

    def _advance(self, secondaries: Sequence[Secondary]) -> None:
        """One step further with each: what the state store keeps in common it keeps for all of them at once."""
        looking = [
            each for each in secondaries if self._ports.clock.monotonic_s() >= each.retry_at_s
        ]
        for secondary in looking:
            secondary.retry_at_s = 0.0
            secondary.seen_mark = self._ports.log.watermarks.get(secondary.volume.partition)
        cycles: list[tuple[Secondary, Restore]] = []
        while looking:
            steps = [
                (secondary, next_step(secondary.kept, self._view(secondary)))
                for secondary in looking
            ]
            for secondary, step in steps:
                if isinstance(step, Rest):
                    secondary.resting = step
            cycles += [(secondary, step) for secondary, step in steps if isinstance(step, Restore)]
            settled = [
                (secondary, step.state)
                for secondary, step in steps
                if isinstance(step, Begin | Prove | Follow)
            ]
            self._keep(settled)
            looking = [secondary for secondary, _ in settled]
        if cycles:
            self._restore(cycles)

    def _report_and_let_rest(self, secondary: Secondary) -> None:
        if secondary.resting.state is SiteState.CONSISTENT:
            secondary.reason = None
        if self._report(secondary) and secondary.resting.state in (
            SiteState.CONSISTENT,
            SiteState.RETIRED,
        ):
            self._restless.discard(secondary.volume.volume)

    def _stop(self, secondary: Secondary, error: DeviceFailed) -> None:
        log.error("%s", error)
        secondary.resting = Rest(SiteState.STOPPED, str(error))
        secondary.retry_at_s = self._ports.clock.monotonic_s() + _RETRY_S
        self._restless.add(secondary.volume.volume)

    def _view(self, secondary: Secondary) -> View:
        volume = secondary.volume
        mark = self._ports.log.watermarks.get(volume.partition)
        through = None if mark is None else mark.through
        log, beats = self._log(volume.volume), self._ports.log.beats[volume.partition]
        return View(volume, log, through, secondary.read_end, secondary.zeroed, beats)

    def _log(self, name: str) -> SiteLog:
        return SiteLog(*self._logs(name), self.name)

    def _logs(self, name: str) -> tuple[VolumeLog, VolumeLog]:
        """The volume's log, and that of what the site has missed of it."""
        logs = self._ports.log.logs
        return logs[name], logs[missed_log(name, self.name)]

    def _restore(self, cycles: Sequence[tuple[Secondary, Restore]]) -> None:
        """One cycle of each. The order keeps a secondary's word good (invariants 6 and 8):

        1. That a cycle runs is kept durably: from here on the secondary is inconsistent, and says so.
        2. The blocks are read from the primary and written to the secondary.
        3. The secondary is flushed: they are durable.
        4. The new applied position is kept durably; what is published from then on says so.
        5. The end of the commands topic is asked, after the last read: what the proof of the cycle stands on.

        A crash between any two steps repeats the cycle. Where a device fails its cycle ends there, and no other does.
        """
        for secondary, step in cycles:
            secondary.resting = Rest(SiteState.SYNCING, step.reason)
            secondary.read_end = None
            if step.reason is not None:
                secondary.reason = step.reason
                words = (secondary.volume.volume, self.name, step.reason, step.rung)
                log.warning("%s at %s: %s; taking the rung '%s'", *words)
        self._keep([(secondary, step.running) for secondary, step in cycles])  # 1
        done = []
        for secondary, step in cycles:
            try:
                copied = self._copy(secondary, step)  # 2, 3
            except DeviceFailed as error:
                self._stop(secondary, error)
            else:
                secondary.resting = Rest(SiteState.SETTLING)
                done.append((secondary, replace(step.done, rung=copied.rung.value)))
        self._keep(done)  # 4
        self._read_since_asked |= {secondary.volume.volume for secondary, _ in done}  # 5

    def _copy(self, secondary: Secondary, step: Restore) -> Copied:
        """The blocks of one cycle, durable on the secondary when it returns."""

        def progress(blocks: int, size_bytes: int) -> None:
            secondary.blocks_copied += blocks
            secondary.bytes_copied += size_bytes
            self._report(secondary)

        volume, run_bytes = secondary.volume, self._settings.site_copy_bytes
        self._report(secondary)
        with (
            self._ports.open_primary(volume) as primary,
            self._ports.open_secondary(volume) as device,
        ):
            secondary.zeroed = False
            if step.blocks is None:
                copied = restore_all(primary, device, volume, run_bytes, progress)
            else:
                copied = restore_changed(primary, device, volume, step.blocks, run_bytes, progress)
            device.flush()
        return copied

    def _keep(self, states: Sequence[tuple[Secondary, SecondaryState]]) -> None:
        now_us = self._ports.clock.now_us()
        stamped = [(secondary, replace(state, updated_at_us=now_us)) for secondary, state in states]
        self._ports.states.save_all([state for _, state in stamped])
        for secondary, state in stamped:
            secondary.kept = state
            self._forget(secondary)

    def _forget(self, secondary: Secondary) -> None:
        for log in self._logs(secondary.volume.volume):
            log.forget_through(_needed_after(secondary))

    def _report(self, secondary: Secondary) -> bool:
        """Publishes the secondary's state: at once where it is newly proved, otherwise at the pace of the settings.

        True where what is published is what is.
        """
        now_s, known = self._ports.clock.monotonic_s(), secondary.reported
        proved = secondary.resting.state is SiteState.CONSISTENT
        newly_proved = proved and (known is None or known.state is not SiteState.CONSISTENT)
        if now_s - secondary.reported_at_s < self._settings.site_report_s and not newly_proved:
            return False
        progress = self.progress(secondary)
        if known is None or replace(progress, at_us=known.at_us) != known:
            secondary.reported, secondary.reported_at_s = progress, now_s
            key = f"{self.name}/{secondary.volume.volume}".encode()
            self._ports.publisher.publish(self._settings.topics.progress, 0, key, encode(progress))
        return True

    def progress(self, secondary: Secondary) -> SiteProgress:
        """The secondary, now."""
        volume, kept = secondary.volume, secondary.kept
        view = self._view(secondary)
        mark = view.watermark
        applied = kept.applied_position if kept and kept.generation == volume.generation else None
        since = volume.origin_position if applied is None else applied
        pending = len(view.log.missed(after=since, through=mark)) if mark is not None else 0
        oldest_us = (
            view.log.oldest_missed_at_us(after=since, through=mark) if mark is not None else None
        )
        now_us = self._ports.clock.now_us()
        consistent = kept.consistent_position if kept else None
        if secondary.resting.state is SiteState.CONSISTENT and not pending and mark is not None:
            # Nothing of the volume lies above the applied position: what holds there holds at the watermark.
            applied = consistent = max(mark, since)
        elif secondary.is_following and not pending and mark is not None:
            applied = max(mark, since)
        if secondary.resting.state is SiteState.STOPPED and consistent is not None and pending:
            # A host that hears of the watermark may fork again: not before it is kept that the secondary is behind.
            mark = applied
        return SiteProgress(
            site=self.name,
            volume=volume.volume,
            generation=volume.generation,
            state=secondary.resting.state,
            rung=Rung(kept.rung) if kept and kept.rung else None,
            applied_position=applied,
            consistent_position=consistent,
            watermark=mark,
            behind_blocks=pending,
            behind_bytes=pending * volume.block_size,
            lag_s=0.0 if oldest_us is None else max(0.0, (now_us - oldest_us) / 1e6),
            blocks_copied=secondary.blocks_copied,
            bytes_copied=secondary.bytes_copied,
            at_us=now_us,
            reason=secondary.resting.reason or secondary.reason,
        )


def _needed_after(secondary: Secondary) -> int:
    """Records above this position are still needed: for the next cycle, or for the proof of the last ones."""
    kept = secondary.kept
    if kept is None or kept.applied_position is None:
        return BEFORE_FIRST
    return (
        kept.applied_position
        if kept.suspect_after is None
        else min(kept.suspect_after, kept.applied_position)
    )


def _apart(secondary: Secondary, fork: ForkHead | None) -> list[int]:
    """The positions at which the site takes the log apart: what lies on one side of one has nothing to do with the other."""
    kept = secondary.kept
    positions = [kept.applied_position, kept.suspect_after, kept.changed_through] if kept else []
    positions += [fork.after] if fork else []
    return [secondary.volume.origin_position, *(each for each in positions if each is not None)]


def _partitions(secondaries: Iterable[Secondary]) -> set[int]:
    return {secondary.volume.partition for secondary in secondaries}
