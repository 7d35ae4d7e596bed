"""The cluster to which positions belong: those of a mirror of the topics are other positions."""

from __future__ import annotations

from typing import Protocol

from mirrorlog.errors import WrongCluster
from mirrorlog.tracking_log.heads import Watermark


class IdentifiedCluster(Protocol):
    """The part of a TopicAdmin that is needed here."""

    def cluster_id(self) -> str:
        """Return the id that the cluster gave itself when it was made."""


class NamedCluster:
    """A cluster that isn't this one: that of the source of which the topics here are a mirror."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster

    def cluster_id(self) -> str:
        """Return the id of the source."""
        return self._cluster


class ClusterCheck:
    """Refuses what was written in terms of another cluster's positions.

    The cluster is asked for its id once, when it is first needed.
    """

    def __init__(self, cluster: IdentifiedCluster) -> None:
        self._cluster = cluster
        self._own: str | None = None

    def check(self, cluster: str | None, where: str) -> None:
        """Raise WrongCluster if `cluster` isn't the one that is asked here; None is unknown.

        where: names what was read, for the error.
        """
        if cluster is None:
            return
        if self._own is None:
            self._own = self._cluster.cluster_id()
        if cluster != self._own and isinstance(self._cluster, NamedCluster):
            raise WrongCluster(
                f"the topics are to be a mirror of cluster {self._own} (kafka_mirror_of), and the "
                f"positions are those of cluster {cluster}",
                where=where,
                next="Correct kafka_mirror_of or kafka_mirror_prefix. `mirrorlog doctor` at the "
                "source says its cluster's id.",
            )
        if cluster != self._own:
            raise WrongCluster(
                f"this cluster is {self._own}, and the positions are those of cluster {cluster}: "
                "the topics here are a mirror or a copy, in which a position is another command",
                where=where,
                next=f"Name the servers of cluster {cluster} (--bootstrap-servers). A site may "
                "read a mirror: see kafka_mirror_of in docs/multi-site.md. If the cluster is gone "
                "for good, create the volumes on this cluster under another topic prefix: their "
                "sites copy them in full.",
            )

    def check_watermark(self, watermark: Watermark) -> None:
        """Raise WrongCluster if the watermark's position is that of another cluster."""
        if watermark.history is not None:
            self.check(watermark.history.cluster, f"the log of partition {watermark.partition}")
