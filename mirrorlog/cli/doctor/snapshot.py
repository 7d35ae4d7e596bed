"""What `mirrorlog doctor` gathers before it judges anything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from mirrorlog.acls import KafkaOperation, Role
from mirrorlog.domain.host_keys import NO_KEYS, HostKeys
from mirrorlog.errors import BadUse, in_words
from mirrorlog.settings import Settings

if TYPE_CHECKING:
    from mirrorlog.status.overview import Overview

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class NotAsked:
    """Nobody knows the answer. why: in words, without a full stop."""

    why: str


@dataclass(frozen=True, slots=True)
class LibraryFacts:
    """A library, or Python. version: None if it isn't installed. bounds: as pyproject says them."""

    name: str
    version: str | None
    bounds: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFacts:
    """The state folder. problem: what failed when a file was written, synced and locked there.

    exists: if not, the rest is about the nearest folder above it.
    """

    path: Path
    exists: bool
    free_bytes: int
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityFacts:
    """By what this machine is told from others (adapters/machine.py). Empty if it can't be read."""

    machine_id: str
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFacts:
    """An address at which a role serves HTTP. setting: its name. problem: why it can't be used.

    answers: whether something serves HTTP there already.
    """

    setting: str
    address: str
    answers: bool = False
    problem: BadUse | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeyFacts:
    """The host keys that the settings name. path: the node's file; None without one.

    keys: what the file holds. problem: why it can't be used. is_open: others than its owner may
    read it.
    """

    path: Path | None = None
    keys: HostKeys = NO_KEYS
    problem: BadUse | None = None
    is_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """A cluster that answers. version: of Kafka; None if it can't be told."""

    servers: str
    chosen_by: str
    cluster_id: str
    brokers: int
    version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCluster:
    """No broker answers. what, where, next: of the error."""

    what: str
    where: str
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """A topic. exists: None if the principal may not see it.

    partitions, copies: None if it doesn't exist. copies: the fewest of a partition.
    config: its settings. allowed: what the principal may do; None if the cluster doesn't say.
    """

    name: str
    exists: bool | None
    partitions: int | None = None
    copies: int | None = None
    config: Mapping[str, str | None] | NotAsked = NotAsked("it doesn't exist")
    allowed: frozenset[KafkaOperation] | None = None


Groups: TypeAlias = Mapping[str, frozenset[KafkaOperation] | None]
"""What the principal may do with each consumer group; None if the cluster doesn't say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFacts:
    """The machine's clock, and the newest message by the broker's. Microseconds since 1970."""

    now_us: int
    newest_append_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that is gathered.

    role: the role of this machine, None if it isn't said. settings: None if they can't be read.
    open_files: the soft limit of open files. tools: the path of each, None if it isn't there.
    authenticated: the names of authenticated volumes that aren't retired.
    """

    role: Role | None
    problems: Sequence[BadUse]
    settings: Settings | None
    libraries: Sequence[LibraryFacts] | NotAsked
    identity: IdentityFacts | NotAsked
    folder: FolderFacts | NotAsked
    ports: Sequence[PortFacts] | NotAsked
    open_files: int | NotAsked
    tools: Mapping[str, str | None] | NotAsked
    cluster: ClusterFacts | NoCluster | NotAsked
    topics: Sequence[TopicFacts] | NotAsked
    groups: Groups | NotAsked
    overview: Overview | NotAsked
    clock: ClockFacts | NotAsked
    host_keys: HostKeyFacts | NotAsked = HostKeyFacts()
    authenticated: Collection[str] | NotAsked = ()


def ask(question: Callable[[], Answer]) -> Answer | NotAsked:
    """Return the answer; NotAsked, with the error in words, if the question fails."""
    try:
        return question()
    except Exception as error:  # noqa: BLE001 - no failure hides what the other questions find
        return NotAsked(in_words(error).rstrip("."))
