"""Other processes that write to primaries: the tracker accounts for their writes.

nbd/region_grants.py is the caller: nbdkit writes to the primary, and the host collects from a ring
in shared memory what it has written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from mirrorlog.domain.snapshots import SnapshotExport
from mirrorlog.errors import BadUse
from mirrorlog.producers.batches.batch import InFlightTuple
from mirrorlog.producers.batches.hot_regions import WHOLE_VOLUME, HotRegion
from mirrorlog.producers.forks.fork_links import SecondaryLink
from mirrorlog.producers.forks.fork_spans import WriteNumbers
from mirrorlog.producers.forks.linked_writes import KnownWrites
from mirrorlog.producers.writes.batch_sending import send_batch
from mirrorlog.producers.writes.hot_region_admission import make_hot, make_hot_now
from mirrorlog.producers.writes.open_batch import add_ended, is_full
from mirrorlog.producers.writes.tracker_state import OpenVolume, TrackerState


class AttachedWriters:
    """The attached writers of a session: at most one for each volume."""

    def __init__(self, state: TrackerState) -> None:
        self._state = state
        self._closed = 0

    @property
    def session(self) -> str:
        """The session that accounts for the writes."""
        return self._state.outbox.session

    @property
    def accepts_writes(self) -> bool:
        """Return whether writes may begin, as far as Kafka and the node are concerned.

        If not, acquire_regions() waits, or raises the reason.
        """
        return self._state.outbox.accepts_writes

    def attach_writer(
        self,
        opened: OpenVolume,
        collect: Callable[[], None],
        links: Mapping[str, SecondaryLink] | None = None,
    ) -> None:
        """Account for the writes of another process to the primary from now on.

        collect: called with the lock held; it calls add_ended() and replace_in_flight().
        links: if the volume is forked, how the process forks, by site. Raise BadUse if there are
        none: nobody would send those writes to its secondaries.
        """
        if opened.forks is not None and not links:
            raise BadUse(
                "a forked volume is written to by its host alone", where=f"volume {opened.name}"
            )
        opened.attached_batch_extents = self._state.settings.host_nbd_batch_extents

        def collect_now() -> None:
            opened.collect_attached()

        with self._state.lock:
            if opened.forks is not None and links:
                opened.forks.attach_writer(
                    links,
                    collect_now,
                    partial(self._end_forked, opened),
                    batch_extents=opened.attached_batch_extents,
                )
            opened.collect_attached = collect
            self._state.attached[opened.name] = opened

    def detach_writer(self, opened: OpenVolume) -> None:
        """Account for it no longer. It writes no more, and all that it wrote is collected."""
        with self._state.lock:
            opened.collect_attached = lambda: None
            self._state.attached.pop(opened.name, None)

    def acquire_regions(self, opened: OpenVolume, numbers: Sequence[int]) -> Sequence[HotRegion]:
        """Make these regions durable in the activity log, and keep them there.

        The writer may begin writes in them until release_regions(). Return a region for each
        number; while the volume is tracked as a whole, that is the same one for all. Call it
        without the lock: it may wait for a flush or for Kafka. For errors see make_hot().
        """
        return make_hot(self._state, opened, numbers, list)

    def acquire_now(self, opened: OpenVolume, numbers: Sequence[int]) -> Sequence[HotRegion] | None:
        """Do as acquire_regions(), but return None where that would wait.

        None, too, while Kafka takes no commands: room is then left to writes that wait.
        """
        if not self._state.outbox.can_publish_now:
            return None
        return make_hot_now(self._state, opened, numbers)

    def is_hot(self, opened: OpenVolume, number: int) -> bool:
        """Return whether hold_hot() may be called for the region. Call it with the lock held.

        Writes may begin in it at once, as lock-free writes do (batches/lock_free_writes.py, W2).
        """
        return number in opened.lock_free.writable

    def hold_hot(self, opened: OpenVolume, numbers: Sequence[int]) -> Sequence[HotRegion]:
        """Do as acquire_regions() for regions that are hot, without a wait.

        Call it with the lock held, as is_hot().
        """
        return self._state.hot.begin(opened.regions, numbers)

    def release_regions(self, regions: Iterable[HotRegion]) -> None:
        """End acquire_regions() for these regions.

        The writer begins no write in them, and all its writes in them are collected.
        """
        with self._state.lock:
            for region in regions:
                region.in_flight -= 1

    def is_idle(self, region: HotRegion) -> bool:
        """Return whether the region should be released, because nobody writes to it.

        Call it with the lock held. The region that is the whole volume is never idle: to acquire it
        again costs as much, and the activity log is none the smaller.
        """
        return region.number != WHOLE_VOLUME and self._state.recent_uses.is_idle(region)

    def add_ended(
        self,
        opened: OpenVolume,
        ended: list[InFlightTuple],
        regions: Collection[HotRegion],
        numbers: WriteNumbers,
    ) -> None:
        """Add ended writes, which lie in these regions, to the open batch. With the lock held.

        numbers: of the writes, if the volume is forked. They are then in flight, and keep their
        regions, until it is known what became of them at the secondaries.
        """
        if opened.forks is None:
            add_ended(self._state, opened, ended, regions)
            return
        for region in regions:
            region.in_flight += 1
        opened.in_flight.update((id(write), write) for write in ended)
        opened.forks.add_linked(ended, numbers, regions)

    def _end_forked(self, opened: OpenVolume, known: KnownWrites) -> None:
        """Move forked writes from `in_flight` to the open batch."""
        for write in known.writes:
            del opened.in_flight[id(write)]
        add_ended(self._state, opened, known.writes, known.regions, outcomes=known.outcomes)
        if known.is_last:
            for region in known.regions:
                region.in_flight -= 1

    def replace_in_flight(
        self,
        opened: OpenVolume,
        before: Mapping[int, InFlightTuple],
        now: Mapping[int, InFlightTuple],
    ) -> None:
        """Replace the writer's writes in flight. Call it with the lock held.

        before, now: the writes by identity; `before` is empty or the last call's `now`.
        """
        for key in before:
            del opened.in_flight[key]
        opened.in_flight.update(now)

    def collect(self, opened: OpenVolume) -> None:
        """Collect what the writer has written. A full batch leaves at once."""
        with self._state.lock:
            opened.collect_attached()
            if is_full(self._state, opened):
                send_batch(self._state, opened)

    def close_batch(
        self, opened: OpenVolume, on_closed: Callable[[SnapshotExport | None], None]
    ) -> bool:
        """Send all that the writer has written, and find its position. No write is in flight.

        Return whether it is on its way to Kafka. If it is, `on_closed` is called later, once, with
        the lock held: with what is at the position, where every write that ended before is named at
        or below it, and every write that begins after the call above it. None: the history of the
        partition broke meanwhile.
        """
        with self._state.lock:
            volume, outbox = opened.volume, self._state.outbox
            partition = volume.partition
            history_id = outbox.positions.named_history(partition) or None
            number, self._closed = self._closed, self._closed + 1

            def on_position(position: int) -> None:
                is_broken = partition in outbox.positions.broken
                is_same = (outbox.positions.named_history(partition) or None) == history_id
                snapshot = SnapshotExport(
                    volume=volume.volume,
                    session=outbox.session,
                    generation=volume.generation,
                    history_id=history_id,
                    position=position,
                    number=number,
                )
                on_closed(snapshot if is_same and not is_broken else None)

            if not outbox.can_publish_now or partition in outbox.positions.broken:
                return False
            return send_batch(self._state, opened, on_position)

    def collect_all(self) -> None:
        """Call collect() for every attached writer."""
        for opened in list(self._state.attached.values()):
            self.collect(opened)
