"""Falling back to a whole volume, and returning to regions.

While Kafka is away and the spool has no room, no command can be kept that names writes. Then the
host knows of them only that their regions are dirty (OpenVolume.dirty_regions). If no region can
leave the activity log either, a volume counts as dirty as a whole
(docs/decisions/host-spool.md). So does every volume of a partition whose history broke: commands
that Kafka had acknowledged may be gone, and their regions have left the activity log.

Every function needs the tracker's lock.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Final

from mirrorlog.domain.commands import CommandKind
from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.batches.batch import ClosedBatch, dirty_regions, whole_volume
from mirrorlog.producers.batches.hot_regions import WHOLE_VOLUME, HotRegion
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp, region_entries
from mirrorlog.producers.writes.open_batch import (
    collect_ended,
    keep_only_regions,
    note_published,
)
from mirrorlog.producers.writes.tracker_state import OpenVolume, TrackerState

WHOLE_VOLUME_NOTE: Final = "Kafka was away and the host had no room for addresses"
MAX_EXTENTS: Final = 60_000
"""Limit of one command: just below a message of 1 MiB."""


def fall_back_to_whole_volume(
    state: TrackerState, names: Collection[str], note: str = WHOLE_VOLUME_NOTE
) -> None:
    """Let these volumes count as dirty as a whole. Names of volumes that aren't open are skipped.

    After it, no command is needed that would have named their earlier writes.
    note: the reason, for people.

    1. No write of theirs begins without the lock.
    2. The activity log says so durably. Their regions leave it, except for those with writes in
       flight.
    3. Their writes need no region of their own any more.

    Raise DeviceFailed if the activity log can't be written. Then the volumes are tracked as before,
    and the activity log takes no more entries.
    """
    volumes = [state.volumes[name] for name in names if name in state.volumes]
    kept: dict[str, dict[int, HotRegion]] = {}
    for opened in volumes:
        opened.lock_free.writable = {}  # 1
        collect_ended(state, opened)
        kept[opened.name] = _regions_that_stay(state, opened)
    whole = [ActivityEntry(ActivityOp.WHOLE_VOLUME, opened.name) for opened in volumes]
    hot = [
        entry
        for name, regions in kept.items()
        for entry in region_entries(ActivityOp.HOT_SET, name, regions)
    ]
    try:
        state.log.append([*whole, *hot])  # 2
        for opened in volumes:
            opened.tracks_whole_volume = True  # 3
            opened.dirty_note = note
            region = opened.regions.fall_back_to_whole_volume(kept[opened.name])
            keep_only_regions(state, opened, region)
            if opened.forks is not None:
                opened.forks.forget_published()
            state.report(f"volume {opened.name} counts as dirty as a whole: {note}")
    finally:
        state.update_all_writable()


def volume_with_most_to_gain(state: TrackerState, opened: OpenVolume) -> str:
    """Return the name of the volume whose fallback lets most regions leave.

    If none would leave, return `opened`: after its fallback it needs no regions.
    """
    gained = {
        name: len(volume.regions.hot) - len(_regions_that_stay(state, volume))
        for name, volume in state.volumes.items()
    }
    name = max(gained, key=lambda candidate: gained[candidate])
    return name if gained[name] else opened.name


def return_all_to_regions(state: TrackerState) -> None:
    """Take the next step back to regions, for every volume that can take one."""
    for opened in list(state.with_dirty_regions.values()):
        _return_to_regions(state, opened)
        if not opened.dirty_regions and opened.regions.whole is None:
            del state.with_dirty_regions[opened.name]


def _return_to_regions(state: TrackerState, opened: OpenVolume) -> None:
    """Take the next step back to regions, if the volume can take one.

    1. Once Kafka is back, a MARK_DIRTY names the dirty regions and what is in flight: that is
       everything unpublished. It is sent when all earlier commands of these regions are
       acknowledged, so only one is under way at a time.
    2. From then on writes are named again, in regions of their own.
    3. When the MARK_DIRTY is acknowledged, and the primary was flushed after the last of these
       writes, the activity log says that the volume isn't dirty as a whole.
    """
    if opened.dirty_regions and state.outbox.can_publish_now:
        opened.collect_attached()
        collect_ended(state, opened)
        keep_only_regions(state, opened)
        if all(region.unacknowledged == 1 for region in opened.dirty_regions) and (
            state.outbox.offer(
                opened.volume,
                CommandKind.MARK_DIRTY,
                _dirty_batch(state, opened),
                note=opened.dirty_note or WHOLE_VOLUME_NOTE,
                regions=opened.dirty_regions,
            )
        ):  # 1
            opened.dirty_regions, opened.tracks_whole_volume = set(), False
            opened.dirty_note = ""
            note_published(state, opened, with_held_back=False)
            state.update_writable(opened)  # 2
    whole, durable = opened.regions.whole, opened.regions.durable
    if whole and not (
        opened.tracks_whole_volume
        or whole.in_flight
        or whole.unacknowledged
        or whole.last_write > durable
    ):
        # A failed append raises again in the next write that needs the activity log.
        with suppress(DeviceFailed):
            reached = state.outbox.reached_entries([opened.volume.partition])
            state.log.append([ActivityEntry(ActivityOp.REGIONS, opened.name), *reached])  # 3
            state.hot.leave([whole])


def _dirty_batch(state: TrackerState, opened: OpenVolume) -> ClosedBatch:
    """Return the dirty regions and the writes in flight, as the content of one command.

    It must be one: a site that knows of it may believe that nothing before it is unpublished
    (invariant 8).
    """
    numbers = {region.number for region in opened.dirty_regions}
    size_bytes = opened.volume.size_bytes
    in_flight = [*opened.in_flight.values(), *opened.lock_free.copy_in_flight()]
    if WHOLE_VOLUME in numbers or len(numbers) + len(in_flight) > MAX_EXTENTS:
        return whole_volume(size_bytes)
    return dirty_regions(
        numbers, in_flight, region_bytes=state.settings.region_bytes, size_bytes=size_bytes
    )


def _regions_that_stay(state: TrackerState, opened: OpenVolume) -> dict[int, HotRegion]:
    """Return the regions that can't leave: writes are in flight in them, or all are stuck."""
    if opened.regions.is_stuck:
        return opened.regions.hot
    busy = opened.lock_free.regions_in_flight(state.settings.region_bytes)
    return {
        number: region
        for number, region in opened.regions.hot.items()
        if region.in_flight or number in busy
    }
