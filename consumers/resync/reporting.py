"""The reports of a site: the progress of each secondary on a topic, and a summary of them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mirrorlog.codec.events import encode
from mirrorlog.consumers.resync.cycle_steps import CycleInput
from mirrorlog.consumers.resync.next_action import next_action
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import SiteProgress, SiteState, is_behind_known
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher

_PARTITION = 0
_STOPPED = (SiteState.STOPPED, SiteState.DIVERGED)
_CLOCK_SKEW_S = 60.0
"""A write that is newer than the site's clock by more than this has no known age."""


@dataclass(frozen=True, slots=True)
class ReportedReplica:
    """A secondary as the site reported it last.

    at_s: when the report was published, by the monotonic clock.
    consistent_at_us: when the secondary was last known to equal the primary, in microseconds since
    1970 by the site's clock; while it is CONSISTENT, it still does (LogFreshness). None if that
    isn't known.
    compared_bytes, equal_bytes: of the counts of its copies since the site's start (CopyCounts).
    The report on the topic hasn't them.
    """

    progress: SiteProgress
    at_s: float
    size_bytes: int
    partition: int
    consistent_at_us: int | None
    compared_bytes: int = 0
    equal_bytes: int = 0


class ProgressReporter:
    """Publishes the progress of a site's secondaries to the progress topic."""

    def __init__(
        self, site: str, publisher: Publisher, topic: str, clock: Clock, interval_s: float
    ) -> None:
        self._site, self._publisher, self._topic = site, publisher, topic
        self._clock, self._interval_s = clock, interval_s
        self._last: dict[str, ReportedReplica] = {}

    def reported(self) -> list[ReportedReplica]:
        """Return all secondaries as they were reported last. Any thread may call it."""
        return list(self._last.values())

    def is_due(self, secondary: Secondary) -> bool:
        """Return whether a report is due.

        It is due after the interval, and at once when the secondary becomes consistent, or is at
        another common point: the reports of a group's members are to name the same one.
        """
        last = self._last.get(secondary.volume.volume)
        if last is None or self._clock.monotonic_s() - last.at_s >= self._interval_s:
            return True
        if secondary.state is not SiteState.CONSISTENT or secondary.staged is not None:
            return False
        was_consistent = last.progress.state is SiteState.CONSISTENT
        saved, point_id = secondary.saved, last.progress.common_point_id
        if saved is not None and saved.common_point_id != point_id:
            return True
        return not was_consistent or bool(last.progress.behind_blocks)

    def forget(self, volume: str) -> None:
        """Forget a volume that the site works for no more. Its last report stands."""
        self._last.pop(volume, None)

    def report(self, secondary: Secondary, cycle_input: CycleInput) -> None:
        """Publish the progress of a secondary unless the last report says the same.

        It is the last step of a round. The node keeps the records that the report says the site
        still needs (mirrorlog/reading/site_reports.py).
        """
        volume = secondary.volume.volume
        last, progress = self._last.get(volume), self.progress_of(secondary, cycle_input)
        if last is not None and replace(progress, at_us=last.progress.at_us) == last.progress:
            return
        self._last[volume] = ReportedReplica(
            progress,
            self._clock.monotonic_s(),
            secondary.volume.size_bytes,
            secondary.volume.partition,
            _consistent_at_us(secondary, progress, last),
            secondary.counts.compared_bytes,
            secondary.counts.equal_bytes,
        )
        key = f"{self._site}/{volume}".encode()
        self._publisher.publish(self._topic, _PARTITION, key, encode(progress))

    def progress_of(self, secondary: Secondary, cycle_input: CycleInput) -> SiteProgress:
        """Return the progress of a secondary as of now."""
        progress = progress_of(self._site, secondary, cycle_input, self._clock.now_us())
        if secondary.copying is None:
            return progress
        speed = secondary.copying.speed(self._clock.monotonic_s())
        return replace(progress, rate_bytes_s=speed.rate_bytes_s, eta_s=speed.eta_s)

    def poll(self) -> None:
        """Run the callbacks that are due, without waiting."""
        self._publisher.poll(0)


def progress_of(
    site: str, secondary: Secondary, cycle_input: CycleInput, now_us: int
) -> SiteProgress:
    """Return the progress of a secondary as of now, without the speed of a copy that runs.

    cycle_input: what the next cycle would see.
    """
    volume, saved, watermark = secondary.volume, secondary.saved, cycle_input.watermark
    if saved is not None and saved.generation != volume.generation:
        saved = None  # it is about another history
    applied = saved.applied_position if saved else None
    after = volume.origin_position if applied is None else applied
    behind_blocks = 0
    if watermark is not None:
        behind_blocks = len(cycle_input.log.missed(after=after, through=watermark))
    is_known = _is_behind_known(secondary.state, applied, cycle_input)
    consistent = saved.consistent_position if saved else None
    if saved is None or watermark is None or behind_blocks:
        pass
    elif secondary.state is SiteState.CONSISTENT:
        # The log names nothing of the volume above the applied position: what is true there is
        # true at the watermark.
        applied = consistent = max(watermark, after)
    elif secondary.is_awaiting_outcomes:
        applied = max(watermark, after)
    if secondary.state is SiteState.STOPPED and consistent is not None and behind_blocks:
        # A host that reads of the watermark may fork again. It must not fork again before the
        # site has saved that the secondary is behind.
        watermark = applied
    progress = SiteProgress(
        site=site,
        volume=volume.volume,
        generation=volume.generation,
        state=secondary.state,
        rung=saved.rung if saved else None,
        applied_position=applied,
        consistent_position=consistent,
        watermark=watermark,
        behind_blocks=behind_blocks if is_known else None,
        behind_bytes=behind_blocks * volume.block_size if is_known else None,
        lag_s=_lag_s(after, cycle_input, now_us) if is_known else None,
        blocks_copied=secondary.blocks_copied,
        bytes_copied=secondary.bytes_copied,
        at_us=now_us,
        reason=secondary.status.reason
        or _log_lag_reason(cycle_input)
        or secondary.reason
        or _group_reason(secondary),
        secondary_id=secondary.reported_id,
        last_applied_at_us=secondary.applied_at_us if saved else None,
        next_action=next_action(
            secondary.state,
            advice=secondary.advice,
            is_log_lagging=cycle_input.awaited_position is not None,
            is_unanswered=cycle_input.unanswered_reason is not None,
            has_watermark=cycle_input.watermark is not None,
        ),
    )
    return _with_group(progress, secondary, saved)


def _group_reason(secondary: Secondary) -> str | None:
    return None if secondary.volume.group is None else secondary.group_reason


def _with_group(
    progress: SiteProgress, secondary: Secondary, saved: SecondaryState | None
) -> SiteProgress:
    """Return the progress with what is known of the volume's group.

    saved: the saved state; None if it is about another history.
    """
    volume = secondary.volume
    if volume.group is None or volume.is_retired:
        return progress
    is_at_point = saved is not None and saved.common_point_id is not None
    point = saved.common_point if saved is not None and is_at_point else None
    return replace(
        progress,
        group=volume.group,
        group_reason=_group_reason(secondary),
        common_point_id=None if point is None else point.id,
        common_point_position=None if point is None else point.position,
        common_point_at_us=None if point is None else point.at_us,
    )


def _consistent_at_us(
    secondary: Secondary, progress: SiteProgress, last: ReportedReplica | None
) -> int | None:
    """Return the last time at which the secondary was known to equal the primary.

    last: the report before. If that one said CONSISTENT, the secondary equalled the primary until
    the oldest write that it lacks now. So it did if it is CONSISTENT and behind now.
    """
    is_consistent = progress.state is SiteState.CONSISTENT
    if is_consistent and not progress.behind_blocks:
        return progress.at_us
    saved = secondary.saved
    if last is None:
        known = saved is not None and saved.consistent_position is not None
        return saved.updated_at_us if known and saved is not None else None
    was_equal = last.progress.state is SiteState.CONSISTENT and not last.progress.behind_blocks
    if (is_consistent or was_equal) and progress.lag_s is not None:
        known_us = last.progress.at_us if was_equal else last.consistent_at_us or 0
        return max(known_us, progress.at_us - round(progress.lag_s * 1e6))
    return last.consistent_at_us


def _is_behind_known(state: SiteState, applied: int | None, cycle_input: CycleInput) -> bool:
    """Return whether it is known what the secondary lacks of the log through the watermark.

    applied: the applied position that is saved.
    """
    watermark = cycle_input.watermark
    if cycle_input.awaited_position is not None or cycle_input.unanswered_reason is not None:
        return False
    if not is_behind_known(state, applied_position=applied, watermark=watermark):
        return False
    assert applied is not None and watermark is not None
    return cycle_input.log.hole(after=applied, through=watermark) is None


def _log_lag_reason(cycle_input: CycleInput) -> str | None:
    if cycle_input.awaited_position is None:
        return cycle_input.unanswered_reason
    return (
        f"the log ends at {cycle_input.watermark}, and commands through "
        f"{cycle_input.awaited_position} wait for the node"
    )


def _lag_s(after: int, cycle_input: CycleInput, now_us: int) -> float | None:
    """Return the age of the oldest write above `after` that the secondary has missed; 0 for none.

    Return None if the host's clock, which gave the time of the write, is far ahead of the site's.
    """
    assert cycle_input.watermark is not None
    oldest_us = cycle_input.log.oldest_missed_at_us(after=after, through=cycle_input.watermark)
    if oldest_us is None:
        return 0.0
    age_s = (now_us - oldest_us) / 1e6
    return None if age_s < -_CLOCK_SKEW_S else max(0.0, age_s)


@dataclass(frozen=True, slots=True)
class SiteSummary:
    """The sums over a site's secondaries.

    blocks_copied, bytes_copied: since the site's start. bytes_compared, bytes_equal: by copies that
    compared both sides since then.
    """

    site: str
    volumes: int
    consistent: int
    stopped: int
    blocks_copied: int
    bytes_copied: int
    bytes_compared: int
    bytes_equal: int


def summarize_site(site: str, secondaries: Iterable[Secondary]) -> SiteSummary:
    """Return the summary of a site's secondaries."""
    all_secondaries = list(secondaries)
    return SiteSummary(
        site=site,
        volumes=len(all_secondaries),
        consistent=sum(secondary.state is SiteState.CONSISTENT for secondary in all_secondaries),
        stopped=sum(secondary.state in _STOPPED for secondary in all_secondaries),
        blocks_copied=sum(secondary.blocks_copied for secondary in all_secondaries),
        bytes_copied=sum(secondary.bytes_copied for secondary in all_secondaries),
        bytes_compared=sum(secondary.counts.compared_bytes for secondary in all_secondaries),
        bytes_equal=sum(secondary.counts.equal_bytes for secondary in all_secondaries),
    )
