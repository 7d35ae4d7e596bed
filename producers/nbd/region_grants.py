"""The regions in which nbdkit may write by itself, and what the tracker knows of those writes.

ring.h has the protocol; its steps are named here (G1, G2, R1 to R3, B1).
"""

from __future__ import annotations

import errno
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat, takewhile
from typing import Final

from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.batches.batch import InFlightTuple
from mirrorlog.producers.batches.hot_regions import WHOLE_VOLUME, HotRegion
from mirrorlog.producers.batches.look_ahead import MOST_AHEAD
from mirrorlog.producers.forks.fork_links import SecondaryLink
from mirrorlog.producers.nbd.ring import Ring, RingExtents, regions_touched
from mirrorlog.producers.writes.tracker_state import OpenVolume
from mirrorlog.producers.writes.write_tracker import WriteTracker

REVOKED_AT_ONCE: Final = 256
"""When grants must be revoked to make room, this many are revoked at once, which is rarer."""
_MARKED_PART: Final = 8
"""Behind this part of the regions that are granted ahead lies the marker (ring.h)."""


@dataclass(frozen=True, slots=True)
class _RevokedRegions:
    """Regions whose grants were revoked together, by their numbers.

    No write begins in them without a new grant. Writes that had begun have ended once the ring's
    tail reaches `until`, a position of the ring.
    """

    until: int
    regions: Mapping[int, HotRegion]


class RegionGrants:
    """Grants regions of one volume to nbdkit, and revokes the grants.

    A granted region stays in the activity log, so nbdkit begins writes in it without asking. At
    most `limit` regions are granted, and in addition those that writes in flight need. The region
    that was written to longest ago is revoked first. A region that is idle (host_region_idle_s) is
    revoked, too. A revoked region becomes one of the tracker's hot regions, like any other, when
    its writes have ended.
    """

    def __init__(
        self,
        tracker: WriteTracker,
        opened: OpenVolume,
        ring: Ring,
        limit: int,
        links: Mapping[str, SecondaryLink] | None = None,
    ) -> None:
        """Attach nbdkit's writes to the tracker, which then calls collect_writes().

        links: by site, how nbdkit forks the writes; needed if the volume is forked.
        """
        self._tracker: Final = tracker
        self._writers: Final = tracker.attached_writers
        self._opened: Final = opened
        self._ring: Final = ring
        self._limit: Final = limit
        self._granted: Final[OrderedDict[int, HotRegion]] = OrderedDict()
        self._revoked: Final[deque[_RevokedRegions]] = deque()
        self._in_flight: dict[int, InFlightTuple] = {}
        self._behind: Final[dict[int, int]] = {}
        self._writers.attach_writer(opened, self.collect_writes, links)

    def grant(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Grant the regions of these ranges, which are (offset, length) in bytes (G1 and G2).

        Call it from one thread at a time, without the tracker's lock. It may wait for a flush of
        a primary, or for Kafka. Raise MirrorlogError if no write may begin.
        """
        wanted = {
            number
            for offset, length in ranges
            for number in self._ring.geometry.regions_of(offset=offset, length=length)
        }
        with self._tracker.lock:
            missing = [number for number in sorted(wanted) if number not in self._granted]
            self._make_room(len(missing), wanted)
        if not missing:
            return
        self._grant(missing, wanted, self._writers.acquire_regions(self._opened, missing))  # G1

    def grant_behind(self, *, offset: int, length: int) -> None:
        """Grant the regions behind those that were granted ahead with a marker in this range.

        A writer has cleared the marker, and comes to them soon. Nothing is done where that would
        wait for a flush or for Kafka: room is then made only for a write that waits. Call it, and
        it raises, as grant().
        """
        for number in self._ring.geometry.regions_of(offset=offset, length=length):
            behind = self._behind.pop(number, None)
            if behind is None or behind in self._granted:
                continue
            with self._tracker.lock:
                self._make_room(1, {behind})
            hot_regions = self._writers.acquire_now(self._opened, [behind])  # G1
            if hot_regions is not None:
                self._grant([behind], {behind}, hot_regions)

    def _grant(
        self, missing: Sequence[int], wanted: set[int], hot_regions: Sequence[HotRegion]
    ) -> None:
        """Grant the regions `missing`, which are held, and others ahead of a writer (G2)."""
        with self._tracker.lock:
            self._granted.update(zip(missing, hot_regions, strict=True))
            ahead = self._hold_ahead(missing, wanted)
            self._ring.grant([*missing, *ahead], marked=self._mark(ahead))

    def _hold_ahead(self, missing: Sequence[int], wanted: set[int]) -> list[int]:
        """Hold the hot regions that follow the `missing` ones, too, and return their numbers.

        nbdkit needn't ask for them then. Mostly they are hot because the tracker has looked ahead
        of a client that goes through the volume in order. Call it with the tracker's lock held.
        wanted: the regions of the request, which aren't revoked.
        """
        ahead = [
            number
            for first in missing
            if first + 1 not in wanted
            for number in takewhile(
                lambda number: self._writers.is_hot(self._opened, number),
                range(first + 1, first + 1 + MOST_AHEAD),
            )
        ]
        most = max(min(MOST_AHEAD, self._limit - len(wanted)), 0)
        chosen = list(dict.fromkeys(n for n in ahead if n not in self._granted))[:most]
        self._make_room(len(chosen), wanted.union(chosen))
        self._granted.update(zip(chosen, self._writers.hold_hot(self._opened, chosen), strict=True))
        return chosen

    def _mark(self, ahead: Sequence[int]) -> int | None:
        """Return which of the regions granted ahead gets a marker, if any does.

        The write that comes to it asks for the region behind the last one. Then that is granted,
        and others ahead of it, while writes go on in front of it.
        """
        if not ahead or ahead[-1] + 1 == self._ring.geometry.region_count:
            return None
        marked = ahead[len(ahead) // _MARKED_PART]
        self._behind[marked] = ahead[-1] + 1
        return marked

    def collect_writes(self, *, orphaned: bool = False) -> None:
        """Add the writes that nbdkit has ended to the batch, and update those in flight (B1).

        Call it with the tracker's lock held. Set `orphaned` if nbdkit is dead: its writes in flight
        have then ended.
        """
        self._share_failure()
        if not self._ring.has_writes and not self._in_flight:
            self._release_regions()
            return
        ended, in_flight = self._ring.collect(orphaned=orphaned)
        if len(ended):
            regions = self._regions_of(ended)
            writes = _in_flight_writes(ended, tuple(regions))
            self._writers.add_ended(self._opened, writes, regions, ended["forked"])
        regions = self._regions_of(in_flight)
        begun = {id(write): write for write in _in_flight_writes(in_flight, tuple(regions))}
        self._writers.replace_in_flight(self._opened, self._in_flight, begun)
        self._in_flight = begun
        self._release_regions()

    def close(self) -> None:
        """Give all writes and all regions to the tracker. Call it when nbdkit is dead.

        Afterwards the tracker knows all that nbdkit wrote, and nothing is in flight.
        """
        with self._tracker.lock:
            self.collect_writes(orphaned=True)
            held = [self._granted, *(revoked.regions for revoked in self._revoked)]
            self._writers.release_regions(region for regions in held for region in regions.values())
            self._writers.detach_writer(self._opened)

    def _release_regions(self) -> None:
        """Revoke the grants that must end, and release the revoked regions whose writes ended (R3).

        All grants end if no write may begin. A grant of the whole volume ends when the volume isn't
        tracked as a whole any more. Grants of idle regions end: these regions then leave the
        activity log. Call it with the tracker's lock held.
        """
        if not self._writers.accepts_writes:
            self._revoke(list(self._granted))
        elif self._opened.regions.whole is not None and not self._opened.tracks_whole_volume:
            self._revoke(
                [n for n, region in self._granted.items() if region.number == WHOLE_VOLUME]
            )
        # The region that was written to longest ago comes first.
        granted = self._granted.items()
        self._revoke(
            [n for n, _ in takewhile(lambda grant: self._writers.is_idle(grant[1]), granted)]
        )
        while self._revoked and self._revoked[0].until <= self._ring.tail:
            self._writers.release_regions(self._revoked.popleft().regions.values())  # R3

    def _revoke(self, numbers: Sequence[int]) -> None:
        """Revoke the grants of these regions (R1 and R2). Call it with the tracker's lock held."""
        if not numbers:
            return
        until = self._ring.revoke(numbers)
        for number in numbers:
            self._behind.pop(number, None)
        self._revoked.append(
            _RevokedRegions(until, {number: self._granted.pop(number) for number in numbers})
        )

    def _make_room(self, missing: int, wanted: set[int]) -> None:
        """Revoke grants until `missing` more fit, and spare those that are `wanted`.

        Call it with the tracker's lock held.
        """
        surplus = len(self._granted) + missing - self._limit
        if missing and surplus > 0:
            count = max(surplus, min(REVOKED_AT_ONCE, self._limit // 4))
            others = (number for number in self._granted if number not in wanted)
            self._revoke(list(islice(others, count)))

    def _regions_of(self, extents: RingExtents) -> list[HotRegion]:
        """Return the regions under whose grants these writes can have begun.

        For one number there can be several: grants that were revoked since, and a newer one. Also
        mark the regions as written to now, so that they are revoked last.
        """
        regions: dict[int, HotRegion] = {}
        granted = self._granted
        all_held = [granted, *(revoked.regions for revoked in self._revoked)]
        for number in regions_touched(extents, self._ring.geometry.region_bytes):
            for held in all_held:
                if number in held:
                    regions[id(held[number])] = held[number]
            if number in granted:
                granted.move_to_end(number)
        return list(regions.values())

    def _share_failure(self) -> None:
        """Fail the volume in the ring if it has failed in the tracker, and the reverse."""
        if self._opened.failed is not None:
            if not self._ring.failed:
                self._ring.fail(errno.EIO)
        elif self._ring.failed:
            where = f"volume {self._opened.name}"
            advice = "Look at the kernel log and at the device, then start the host again."
            self._tracker.fail(
                self._opened,
                DeviceFailed("nbdkit couldn't flush the primary", where=where, next=advice),
            )


def _in_flight_writes(extents: RingExtents, regions: tuple[HotRegion, ...]) -> list[InFlightTuple]:
    """Return the writes as the tracker keeps them.

    Each holds all of `regions`, because their fate is decided for all of them at once.
    """
    kinds, *columns = (extents[name].tolist() for name in ("kind", "offset", "length", "at_us"))
    return list(zip(kinds, *columns, repeat(regions)))
