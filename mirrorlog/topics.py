"""The topics: names, keys, how long they keep what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_FLUSHED: Final = {"flush.messages": "1"}
_COMPACTED: Final = {"cleanup.policy": "compact", "max.compaction.lag.ms": str(24 * 3600 * 1000)}
_MIB: Final = 1 << 20
QUARANTINE_MAX_BYTES: Final = 2 * _MIB
"""A refused event of the largest size and what is said about it must fit (invariant 11)."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as it is to be made. one_partition: it isn't spread as the commands are."""

    name: str
    config: Mapping[str, str]
    one_partition: bool = False


@dataclass(frozen=True, slots=True)
class Topics:
    """All names begin with one prefix, so that one prefixed ACL serves."""

    prefix: str = "mirrorlog."

    @property
    def volumes(self) -> str:
        """Volume descriptions, the latest of each."""
        return f"{self.prefix}volumes"

    @property
    def commands(self) -> str:
        """Tracking commands: the history that audits replay."""
        return f"{self.prefix}commands"

    @property
    def status(self) -> str:
        """The node's answer to each command."""
        return f"{self.prefix}status"

    @property
    def quarantine(self) -> str:
        """Refused bytes, why, and where from."""
        return f"{self.prefix}quarantine"

    @property
    def changelog(self) -> str:
        """The tracking log: the node's table, and what the sites read."""
        return f"{self.prefix}log"

    @property
    def progress(self) -> str:
        """Applied position and state of each secondary."""
        return f"{self.prefix}progress"

    def specs(self, *, single_copy: bool) -> list[TopicSpec]:
        """Every topic. A single copy is acknowledged from memory unless each message is flushed (invariant 12)."""
        durable = _FLUSHED if single_copy else {}
        days = 24 * 3600 * 1000
        return [
            TopicSpec(self.volumes, {**_COMPACTED, **durable}, one_partition=True),
            TopicSpec(
                self.commands,
                {"cleanup.policy": "delete", "retention.ms": str(365 * days), **durable},
            ),
            TopicSpec(self.status, {"cleanup.policy": "delete", "retention.ms": str(days)}),
            TopicSpec(
                self.quarantine,
                {
                    "cleanup.policy": "delete",
                    "retention.ms": str(365 * days),
                    "max.message.bytes": str(QUARANTINE_MAX_BYTES),
                    **durable,
                },
                one_partition=True,
            ),
            TopicSpec(self.changelog, {**_COMPACTED, **durable}),
            TopicSpec(self.progress, dict(_COMPACTED), one_partition=True),
        ]
