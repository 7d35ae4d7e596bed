"""While archiving is on, the archiver owns the retention of the commands topic.

Kafka's retention knows nothing of archives. So the topic itself keeps everything, and the archiver
deletes what is archived and older than the topic should keep (docs/decisions/held-retention.md):

1. Before anything else of a round, let the topic keep everything. Whoever has set a retention again
   is overruled, and told.
2. After a round, delete the records below the lowest of: the end of what is archived, the end of
   what the log has recorded, and the first record that is younger than `keep_s`. Before that, look
   whether each file of what is deleted is there, with its size.

An archiver that is killed, or stops, deletes nothing: then the topic grows, and `mirrorlog check`
warns. It never loses what isn't archived.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from mirrorlog.archive.archive import Archive
from mirrorlog.archive.chains import Chain
from mirrorlog.consumers.archive.plan import ArchiveView, chain_of, deletable_before
from mirrorlog.errors import StateDamaged
from mirrorlog.ports.clock import Clock
from mirrorlog.topics import differing

log = logging.getLogger("mirrorlog.archive")

HELD: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
}
"""The settings of a topic that keeps everything."""


class RetentionAdmin(Protocol):
    """What of Kafka's administration it needs (adapters/kafka/admin.py)."""

    def configs(self, topics: Collection[str]) -> dict[str, dict[str, str | None]]:
        """Return the settings of topics, by topic and name."""

    def set_config(self, topics: Sequence[str], config: Mapping[str, str]) -> list[str]:
        """Give topics these settings. Return those that had others."""

    def appended_from(self, topic: str, partition: int, at_us: int) -> tuple[int, int]:
        """Return (position, end), as TopicAdmin does."""

    def delete_before(self, topic: str, partition: int, position: int) -> None:
        """Delete the records of a partition below a position."""


class HeldRetention:
    """The retention of one commands topic, held. keep_s: how long the topic keeps what is archived.

    Raise KafkaFailed from any call if the cluster refuses.
    """

    def __init__(
        self, admin: RetentionAdmin, topic: str, archive: Archive, clock: Clock, keep_s: float
    ) -> None:
        self._admin, self._topic, self._archive = admin, topic, archive
        self._clock, self._keep_s = clock, keep_s

    def hold(self) -> dict[str, str | None]:
        """Let the topic keep everything (step 1). Return the settings that it had before, by name:
        those that were others."""
        had = differing(HELD, self._admin.configs([self._topic])[self._topic])
        if had:
            self._admin.set_config([self._topic], HELD)
            log.warning("topic %s keeps everything from now on; it had %s", self._topic, had)
        return had

    def delete_archived(self, view: ArchiveView) -> int | None:
        """Delete what need not be kept (step 2). Return the topic's new first position, or None.

        view: of the partition after its round. Raise StateDamaged, and delete nothing, if a file of
        the archive is missing.
        """
        if view.watermark is None or view.watermark.history is None:
            return None
        chains = self._archive.chains(view.partition, above=view.first_kept - 1)
        chain = chain_of(chains, view.watermark.history)
        if chain is None:
            return None
        kept_from, _ = self._admin.appended_from(
            self._topic, view.partition, self._clock.now_us() - int(self._keep_s * 1e6)
        )
        before = deletable_before(view, archived_through=chain.through, kept_from=kept_from)
        if before is None:
            return None
        self._check_files(chain, after=view.first_kept - 1, before=before)
        self._admin.delete_before(self._topic, view.partition, before)
        return before

    def _check_files(self, chain: Chain, *, after: int, before: int) -> None:
        for manifest in chain.manifests:
            if manifest.through <= after or manifest.after + 1 >= before:
                continue
            for file in manifest.files:
                size_bytes = self._archive.store.size_bytes(file.name)
                if size_bytes != file.size_bytes:
                    raise StateDamaged(
                        f"a file of the archive has {size_bytes} bytes and not {file.size_bytes}: "
                        "Kafka's copy of its commands isn't deleted",
                        where=f"{self._archive.store.where}, {file.name}",
                        next="Run `mirrorlog archive verify`, and restore the file.",
                    )


def release(admin: RetentionAdmin, topic: str, keep_s: float) -> None:
    """Let Kafka's own retention take the topic's records again, archived or not."""
    admin.set_config([topic], {"retention.ms": str(int(keep_s * 1000))})
