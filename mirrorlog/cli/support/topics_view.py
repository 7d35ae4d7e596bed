"""The topics of a cluster, as `topics list` shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.cli.support.tables import Column
from mirrorlog.settings import Settings
from mirrorlog.units import format_duration

TOPIC_COLUMNS: Final = (
    Column("TOPIC"),
    Column("PARTITIONS", right=True),
    Column("COPIES", right=True),
    Column("POSITIONS", right=True),
    Column("KEEPS"),
)


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as it is. Everything but the name is None for a topic that doesn't exist.

    copies: of the partition that has the fewest. positions: from the oldest message that is kept
    to the end, of all partitions together. cleanup_policy, retention_ms: the topic's settings;
    retention_ms is None, too, where nothing is deleted for its age.
    """

    name: str
    exists: bool = False
    partitions: int | None = None
    copies: int | None = None
    positions: int | None = None
    cleanup_policy: str | None = None
    retention_ms: int | None = None

    def fields(self) -> dict[str, Any]:
        """Return the topic as `--json` prints it."""
        return asdict(self)

    def cells(self) -> Sequence[str]:
        """Return the cells of TOPIC_COLUMNS."""
        numbers = (self.partitions, self.copies, self.positions)
        shown = ("-" if number is None else str(number) for number in numbers)
        return [self.name, *shown, self._keeps()]

    def _keeps(self) -> str:
        if not self.exists:
            return "doesn't exist: run `mirrorlog topics create`"
        parts = []
        if "compact" in (self.cleanup_policy or ""):
            parts.append("the newest of each key")
        if "delete" in (self.cleanup_policy or ""):
            whole = self.retention_ms is None
            parts.append("all" if whole else format_duration((self.retention_ms or 0) / 1000))
        return ", ".join(parts) or "?"


def topic_state(
    name: str, copies: Sequence[int], positions: int, config: Mapping[str, str | None]
) -> TopicState:
    """Return the state of an existing topic. copies: of each partition."""
    policy = config.get("cleanup.policy")
    retention = int(config.get("retention.ms") or -1)
    return TopicState(
        name,
        exists=True,
        partitions=len(copies),
        copies=min(copies, default=0),
        positions=positions,
        cleanup_policy=policy,
        retention_ms=retention if retention >= 0 and "delete" in (policy or "") else None,
    )


def describe_topics(settings: Settings) -> list[TopicState]:
    """Return the state of every topic of mirrorlog, in the order of topics.Topics.specs."""
    names = [spec.name for spec in settings.topics.specs(single_copy=True)]
    with closing(KafkaAdmin(settings.kafka_client())) as admin:
        copies = admin.copies(settings.topic_prefix)
        existing = [name for name in names if name in copies]
        configs = admin.configs(existing)
        held = {
            name: sum(
                end - first
                for number in range(len(copies[name]))
                for first, end in [admin.bounds(name, number)]
            )
            for name in existing
        }
    return [
        topic_state(name, copies[name], held[name], configs[name])
        if name in copies
        else TopicState(name)
        for name in names
    ]
