"""Removes a site that will never return: its reports keep nothing of the log any more."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import uuid4

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.adapters.machine import boot_id
from mirrorlog.consumers.name_fence import FencePorts, NameFence
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.settings import Settings

_PARTITION = 0


def remove_site(name: str, settings: Settings) -> int:
    """Remove a site from the progress topic; return how many of its reports were deleted.

    Raise BadUse if the site runs, or if there is none; KafkaFailed if Kafka doesn't answer. It may
    listen for 12 s for a sign of life.
    """
    with _open_topic(name, settings) as (ports, topic):
        return remove_from(name, ports, topic)


def check_removal(name: str, settings: Settings) -> int:
    """Return how many reports remove_site would delete, and change nothing. Raise the same."""
    with _open_topic(name, settings) as (ports, topic):
        return check_removal_from(name, ports, topic)


@contextmanager
def _open_topic(name: str, settings: Settings) -> Iterator[tuple[FencePorts, CompactedTopic]]:
    check_site_name(name)
    client = settings.kafka_client()
    with (
        closing(KafkaAdmin(client)) as admin,
        closing(KafkaReader(client)) as reader,
        closing(KafkaReader(client)) as fence_reader,
        closing(KafkaPublisher(client)) as publisher,
    ):
        ports = FencePorts(
            reader=fence_reader,
            admin=admin,
            publisher=publisher,
            clock=SystemClock(),
            topic=settings.topics.progress,
            patience_s=30.0,
        )
        patience = ReadPatience(ports.clock, ports.patience_s, "reading the site's reports")
        yield ports, CompactedTopic(reader, admin, ports.topic, patience)


def remove_from(name: str, ports: FencePorts, topic: CompactedTopic) -> int:
    """Remove the site from the topic that `topic` reads. Raise as remove_site.

    1. Take the site's name, as a process does that runs it: a site that lives refuses that, and one
       that starts meanwhile is refused.
    2. Delete its reports.
    3. Delete the lease. A site that was only paused has seen the lease of step 1, and stops.
    """
    keys = _known_keys_of(name, topic)
    NameFence(_lease(name, ports.clock.now_us()), ports).take()  # 1
    lease_key = f"{name}/".encode()
    reports = _keys_of(name, topic, keys) - {lease_key}
    for key in sorted(reports):  # 2
        ports.publisher.publish(ports.topic, _PARTITION, key, None)
    ports.publisher.flush(ports.patience_s)
    ports.publisher.publish(ports.topic, _PARTITION, lease_key, None)  # 3
    ports.publisher.flush(ports.patience_s)
    return len(reports)


def check_removal_from(name: str, ports: FencePorts, topic: CompactedTopic) -> int:
    """Do what remove_from does before it changes anything; return the number of reports."""
    keys = _known_keys_of(name, topic)
    NameFence(_lease(name, ports.clock.now_us()), ports).check_free()
    return len(_keys_of(name, topic, keys) - {f"{name}/".encode()})


def _known_keys_of(name: str, topic: CompactedTopic) -> frozenset[bytes]:
    """Return the keys of the site. Raise BadUse if it has none."""
    if not (keys := _keys_of(name, topic)):
        raise BadUse(
            f"there is no site '{name}'", next="`mirrorlog site list` shows those that exist."
        )
    return keys


def _keys_of(
    name: str, topic: CompactedTopic, known: frozenset[bytes] = frozenset()
) -> frozenset[bytes]:
    """Return the keys of the site by the topic's end now. known: those that were read before."""
    keys = set(known)
    for message in topic.read_to_end():
        if message.key is None or not message.key.startswith(f"{name}/".encode()):
            continue
        if message.value is None:
            keys.discard(message.key)
        else:
            keys.add(message.key)
    return frozenset(keys)


def _lease(name: str, now_us: int) -> SiteLease:
    return SiteLease(
        site=name,
        run=str(uuid4()),
        folder=str(uuid4()),
        machine=boot_id(),
        term=1,
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at_us=now_us,
    )
