"""ShareFollower: lets a site work for the partitions that it has locked, and for no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from mirrorlog.consumers.resync.log_watch import LogWatch
from mirrorlog.consumers.resync.partition_share import PartitionShare
from mirrorlog.ports.streams import Publisher
from mirrorlog.reading.log_reader import LogReader


class ShareFollower:
    """Follows the changes of a share between two rounds of a site. One thread calls it.

    leave_volumes: makes the site forget its secondaries in a partition, and close their devices.
    look_for_journals: makes the site look for the journals that another worker left.
    patience_s: how long to wait until reports are acknowledged.
    """

    def __init__(
        self,
        share: PartitionShare,
        log: LogReader,
        watch: LogWatch,
        publisher: Publisher,
        *,
        leave_volumes: Callable[[int], None],
        look_for_journals: Callable[[], None],
        patience_s: float,
    ) -> None:
        self._share, self._log, self._watch = share, log, watch
        self._publisher, self._patience_s = publisher, patience_s
        self._leave_volumes: Final = leave_volumes
        self._look_for_journals: Final = look_for_journals

    def has_surplus(self) -> bool:
        """Return whether partitions are to be given back before anything else is done."""
        return bool(self._share.surplus())

    def follow(self) -> None:
        """Give back what another worker is to have, and then take what is free of the share.

        A partition is unlocked when nothing of it is open, and when all reports on its volumes are
        acknowledged: none of them comes after those of the next worker. Raise KafkaFailed if they
        aren't, DeviceFailed if the site's folder can't be used.
        """
        surplus = self._share.surplus()
        if surplus:
            self._give_back(sorted(surplus))
        taken = self._share.take()
        for partition in sorted(taken):
            self._log.follow_partition(partition)
        if taken:
            self._look_for_journals()

    def _give_back(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._leave_volumes(partition)
            self._log.leave_partition(partition)
            self._watch.forget_partition(partition)
        self._publisher.flush(self._patience_s)
        self._share.give_back(list(partitions))
