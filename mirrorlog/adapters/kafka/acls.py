"""ACLs of a Kafka cluster: which of them are missing, and their creation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from mirrorlog.acls import Acl, KafkaOperation, Resource
from mirrorlog.adapters.kafka.client import CHECK_BROKER, ClientSettings, KafkaClient
from mirrorlog.errors import KafkaFailed

_OPERATIONS: Final = {
    KafkaOperation.READ: AclOperation.READ,
    KafkaOperation.WRITE: AclOperation.WRITE,
    KafkaOperation.CREATE: AclOperation.CREATE,
    KafkaOperation.DESCRIBE: AclOperation.DESCRIBE,
    KafkaOperation.DESCRIBE_CONFIGS: AclOperation.DESCRIBE_CONFIGS,
    KafkaOperation.ALTER_CONFIGS: AclOperation.ALTER_CONFIGS,
    KafkaOperation.DELETE: AclOperation.DELETE,
}
_RESOURCES: Final = {Resource.TOPIC: ResourceType.TOPIC, Resource.GROUP: ResourceType.GROUP}
_ANY_MACHINE: Final = "*"


class KafkaAcls:
    """The ACLs of a cluster. Reading them needs Describe on the cluster, creating them Alter."""

    def __init__(self, settings: ClientSettings, patience_s: float = 30.0) -> None:
        self._patience_s = patience_s
        self._servers = str(settings.get("bootstrap.servers"))
        self._admin = KafkaClient(AdminClient, settings)

    def missing(self, acls: Sequence[Acl]) -> list[Acl]:
        """Return those of the ACLs that the cluster doesn't have, in order.

        Raise KafkaFailed if the cluster refuses to say, or has no authorizer.
        """
        principals = sorted({acl.principal for acl in acls})
        existing = {binding for principal in principals for binding in self._of(principal)}
        return [acl for acl in acls if _binding(acl) not in existing]

    def create(self, acls: Sequence[Acl]) -> None:
        """Create the ACLs. Raise KafkaFailed at the first one that the cluster refuses."""
        if not acls:
            return
        bindings = [_binding(acl) for acl in acls]

        def create_all(timeout_s: float) -> None:
            created = self._admin.raw.create_acls(bindings, request_timeout=timeout_s)
            for future in created.values():
                future.result(timeout_s + 1)

        self._ask(create_all, "creating ACLs")

    def _of(self, principal: str) -> list[Any]:
        """Return the ACLs of a principal, of any kind (confluent_kafka's bindings)."""
        make_filter: Any = AclBindingFilter  # its annotations forbid None, which means any
        wanted = make_filter(
            ResourceType.ANY,
            None,
            ResourcePatternType.ANY,
            principal,
            None,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )

        def describe(timeout_s: float) -> list[Any]:
            described = self._admin.raw.describe_acls(wanted, request_timeout=timeout_s)
            return list(described.result(timeout_s + 1))

        bindings: list[Any] = self._ask(describe, "asking for the ACLs")
        return bindings

    def close(self) -> None:
        """Release the client. A second call does nothing."""
        self._admin.release()

    def _ask(self, call: Any, doing: str) -> Any:
        try:
            return self._admin.request(
                call, patience_s=self._patience_s, doing=doing, where=self._servers
            )
        except KafkaFailed as error:
            cause = error.__cause__
            code = cause.args[0].code() if isinstance(cause, KafkaException) else None
            raise KafkaFailed(error.what, where=error.where, next=_advice(code, error.next)) from (
                error
            )


def _advice(code: int | None, otherwise: str) -> str:
    """Return what to do about an error with this code of Kafka."""
    if code == KafkaError.SECURITY_DISABLED:
        return "The cluster has no authorizer (authorizer.class.name), so ACLs mean nothing there."
    if code == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
        return "Run this as a principal that may describe and alter the cluster, or a super user."
    return otherwise or CHECK_BROKER


def _binding(acl: Acl) -> Any:
    """Return the ACL as confluent_kafka's AclBinding."""
    right = acl.right
    pattern = ResourcePatternType.PREFIXED if right.is_prefix else ResourcePatternType.LITERAL
    return AclBinding(
        _RESOURCES[right.resource],
        right.name,
        pattern,
        acl.principal,
        _ANY_MACHINE,
        _OPERATIONS[right.operation],
        AclPermissionType.ALLOW,
    )
