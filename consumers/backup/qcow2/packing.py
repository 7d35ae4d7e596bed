"""Which guest clusters share a host cluster: bin packing of masks. Pure.

Two guest clusters can share a host cluster if no unit is data in both, because a unit keeps its
place within the cluster (specification, "Extended L2 Entries").
"""

from __future__ import annotations

from typing import Final

import numpy as np

from mirrorlog.consumers.backup.qcow2.unit_runs import CLUSTER_UNITS, Masks, Numbers, popcounts

_MAX_OPEN: Final = 1024
"""So many kinds of host clusters are looked at for each kind of mask."""


def pack_masks(masks: Masks) -> tuple[Numbers, int]:
    """Return the host cluster of each mask, and the number of host clusters.

    masks: not empty ones. No two masks of a host cluster have a unit in common. Masks of several
    units come first, those with most units ahead, each to the fullest host cluster with room; equal
    masks are placed at once. Masks of one unit then fill what is left, which is the best possible.
    """
    hosts = np.full(len(masks), -1, np.int64)
    counts = popcounts(masks)
    used = _place_several(masks, counts, hosts)
    return hosts, _place_single(masks, counts, used, hosts)


def _place_several(masks: Masks, counts: Numbers, hosts: Numbers) -> Masks:
    """Place the masks of more than one unit. Return which units each host cluster has in use."""
    several = np.flatnonzero(counts > 1)
    kinds, kind_of, sizes = np.unique(masks[several], return_inverse=True, return_counts=True)
    members = np.split(several[np.argsort(kind_of, kind="stable")], np.cumsum(sizes)[:-1])
    open_kinds = _OpenKinds()
    used: list[int] = []
    for kind in np.argsort(-popcounts(kinds), kind="stable").tolist():
        mask, waiting = int(kinds[kind]), members[kind]
        while len(waiting):
            taken = open_kinds.take(mask, len(waiting))
            if not taken:
                taken = list(range(len(used), len(used) + len(waiting)))
                used.extend([0] * len(taken))
            hosts[waiting[: len(taken)]] = taken
            full = used[taken[0]] | mask
            for host in taken:
                used[host] = full
            open_kinds.put(full, taken)
            waiting = waiting[len(taken) :]
    return np.array(used, np.uint32)


class _OpenKinds:
    """The host clusters with room, by which units they have in use."""

    def __init__(self) -> None:
        self._kinds: Masks = np.empty(0, np.uint32)
        self._hosts: dict[int, list[int]] = {}

    def take(self, mask: int, count: int) -> list[int]:
        """Remove and return at most `count` host clusters of one kind with room for the mask."""
        fits = np.flatnonzero((self._kinds & np.uint32(mask)) == 0)
        if not len(fits):
            return []
        kind = int(self._kinds[fits[popcounts(self._kinds[fits]).argmax()]])
        hosts = self._hosts[kind]
        taken = hosts[-count:]
        del hosts[-count:]
        if not hosts:
            self._forget(kind)
        return taken

    def put(self, kind: int, hosts: list[int]) -> None:
        """Add host clusters of one kind. Forget the fullest kind if there are too many."""
        if kind == 0xFFFFFFFF:
            return
        if kind in self._hosts:
            self._hosts[kind].extend(hosts)
            return
        self._hosts[kind] = list(hosts)
        self._kinds = np.append(self._kinds, np.uint32(kind))
        if len(self._kinds) > _MAX_OPEN:
            self._forget(int(self._kinds[popcounts(self._kinds).argmax()]))

    def _forget(self, kind: int) -> None:
        del self._hosts[kind]
        self._kinds = self._kinds[self._kinds != np.uint32(kind)]


def _place_single(masks: Masks, counts: Numbers, used: Masks, hosts: Numbers) -> int:
    """Place the masks of one unit: the n-th of a unit into the n-th host cluster without it."""
    host_count = len(used)
    for unit in range(CLUSTER_UNITS):
        bit = np.uint32(1 << unit)
        waiting = np.flatnonzero((counts == 1) & (masks == bit))
        room = np.flatnonzero((used & bit) == 0)[: len(waiting)]
        hosts[waiting[: len(room)]] = room
        rest = waiting[len(room) :]
        hosts[rest] = np.arange(len(used), len(used) + len(rest))
        host_count = max(host_count, len(used) + len(rest))
    return host_count
