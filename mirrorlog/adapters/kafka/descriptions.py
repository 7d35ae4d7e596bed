"""What a cluster says of topics and groups, and of what the asking principal may do with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient  # type: ignore[attr-defined]

from mirrorlog.acls import KafkaOperation
from mirrorlog.adapters.kafka.client import ClientSettings, KafkaClient

_OPERATIONS: Final = {
    AclOperation.READ: KafkaOperation.READ,
    AclOperation.WRITE: KafkaOperation.WRITE,
    AclOperation.CREATE: KafkaOperation.CREATE,
    AclOperation.DESCRIBE: KafkaOperation.DESCRIBE,
    AclOperation.DESCRIBE_CONFIGS: KafkaOperation.DESCRIBE_CONFIGS,
    AclOperation.ALTER_CONFIGS: KafkaOperation.ALTER_CONFIGS,
    AclOperation.DELETE: KafkaOperation.DELETE,
}
_NOT_THERE: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.GROUP_ID_NOT_FOUND}
)
_DENIED: Final = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDescription:
    """A topic. partitions, copies: None if it doesn't exist, or isn't to be seen by the principal.

    copies: the fewest replicas of a partition. exists: None if the principal may not know.
    allowed: what the principal may do; empty if nothing, None if the cluster doesn't say.
    """

    exists: bool | None
    partitions: int | None = None
    copies: int | None = None
    allowed: frozenset[KafkaOperation] | None = None


class KafkaDescriptions:
    """Asks a cluster, and changes nothing there."""

    def __init__(self, settings: ClientSettings, patience_s: float) -> None:
        self._patience_s = patience_s
        self._admin = KafkaClient(AdminClient, settings)

    def topics(self, names: Sequence[str]) -> dict[str, TopicDescription]:
        """Return what the cluster says of each topic. Raise KafkaFailed if it doesn't answer."""

        def describe(timeout_s: float) -> dict[str, TopicDescription]:
            described = self._admin.raw.describe_topics(
                TopicCollection(list(names)),
                include_authorized_operations=True,
                request_timeout=timeout_s,
            )
            return {name: _topic(future, timeout_s) for name, future in described.items()}

        where = f"topics {', '.join(names)}"
        return dict(self._ask(describe, "asking for the topics", where))

    def group(self, name: str) -> frozenset[KafkaOperation] | None:
        """Return what the principal may do with a group; None if the cluster doesn't say.

        It doesn't say it of a group that has never had a member.
        """

        def describe(timeout_s: float) -> frozenset[KafkaOperation] | None:
            described = self._admin.raw.describe_consumer_groups(
                [name], include_authorized_operations=True, request_timeout=timeout_s
            )
            try:
                return _allowed(described[name].result(timeout_s + 1))
            except KafkaException as error:
                if error.args[0].code() in _NOT_THERE:
                    return None
                if error.args[0].code() in _DENIED:
                    return frozenset()
                raise

        answer: frozenset[KafkaOperation] | None = self._ask(
            describe, "asking for a group", f"group {name}"
        )
        return answer

    def close(self) -> None:
        """Release the client. A second call does nothing."""
        self._admin.release()

    def _ask(self, call: Any, doing: str, where: str) -> Any:
        return self._admin.request(call, patience_s=self._patience_s, doing=doing, where=where)


def _topic(future: Any, timeout_s: float) -> TopicDescription:
    try:
        described = future.result(timeout_s + 1)
    except KafkaException as error:
        if error.args[0].code() in _NOT_THERE:
            return TopicDescription(exists=False)
        if error.args[0].code() in _DENIED:
            return TopicDescription(exists=None, allowed=frozenset())
        raise
    return TopicDescription(
        exists=True,
        partitions=len(described.partitions),
        copies=min((len(partition.replicas) for partition in described.partitions), default=0),
        allowed=_allowed(described),
    )


def _allowed(described: Any) -> frozenset[KafkaOperation] | None:
    """Return the authorized operations of a description, and what they imply."""
    if described.authorized_operations is None:
        return None
    named = [_OPERATIONS[name] for name in described.authorized_operations if name in _OPERATIONS]
    return frozenset().union(*(operation.implied for operation in named))
