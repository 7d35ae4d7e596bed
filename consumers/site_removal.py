"""Removes a site that will never return: its reports keep nothing of the log any more."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Final, TypeAlias
from uuid import uuid4

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.adapters.machine import boot_id
from mirrorlog.codec.events import decode
from mirrorlog.consumers.name_fence import FencePorts, NameFence
from mirrorlog.domain.site_leases import SiteLease, lease_key
from mirrorlog.domain.site_progress import SiteProgress, check_site_name
from mirrorlog.errors import BadInput, BadUse, KafkaFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.settings import Settings

LastReports: TypeAlias = Mapping[str, SiteProgress | None]
"""By volume, the last report of a site; None for one that can't be read."""
_PARTITION: Final = 0


def remove_site(name: str, settings: Settings) -> LastReports:
    """Remove a site from the progress topic; return its reports, which were deleted.

    Raise BadUse if the site runs, or if there is none; KafkaFailed if Kafka doesn't answer. It may
    listen for 12 s for a sign of life.
    """
    with _open_topic(name, settings) as (ports, topic):
        verifications: str | None = settings.topics.verifications
        try:
            ports.admin.partitions(settings.topics.verifications)
        except KafkaFailed:  # topics of an earlier release; a silent broker fails what follows, too
            verifications = None
        return remove_from(name, ports, topic, verifications)


def check_removal(name: str, settings: Settings) -> LastReports:
    """Return the reports that remove_site would delete, and change nothing. Raise the same."""
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


def remove_from(
    name: str, ports: FencePorts, topic: CompactedTopic, verifications: str | None = None
) -> LastReports:
    """Remove the site from the topic that `topic` reads. Return and raise as remove_site.

    verifications: the topic of the reports of verifications; None if the cluster has none.

    1. Take the site's name, as a process does that runs it: a site that lives refuses that, and one
       that starts meanwhile is refused.
    2. Delete the reports of its verifications. They have the keys of its own reports.
    3. Delete its own reports. Until then, what breaks off may be done again.
    4. Delete the lease. A site that was only paused sees the lease of step 1, or that there is none
       any more, and stops.
    """
    known = _known_values_of(name, topic)
    NameFence(_lease(name, ports.clock.now_us()), ports).take()  # 1
    reports = _values_of(name, topic, known)
    key_of_lease = lease_key(name)
    for name_of_topic in (verifications, ports.topic):  # 2, 3
        for key in sorted(set(reports) - {key_of_lease}):
            if name_of_topic is not None:
                ports.publisher.publish(name_of_topic, _PARTITION, key, None)
        ports.publisher.flush(ports.patience_s)
    ports.publisher.publish(ports.topic, _PARTITION, key_of_lease, None)  # 4
    ports.publisher.flush(ports.patience_s)
    return _decoded(name, reports)


def check_removal_from(name: str, ports: FencePorts, topic: CompactedTopic) -> LastReports:
    """Do what remove_from does before it changes anything; return the reports."""
    known = _known_values_of(name, topic)
    NameFence(_lease(name, ports.clock.now_us()), ports).check_free()
    return _decoded(name, _values_of(name, topic, known))


def _known_values_of(name: str, topic: CompactedTopic) -> Mapping[bytes, bytes]:
    """Return what the topic holds of the site, by key. Raise BadUse if that is nothing."""
    if not (values := _values_of(name, topic, {})):
        raise BadUse(
            f"there is no site '{name}'", next="`mirrorlog site list` shows those that exist."
        )
    return values


def _values_of(
    name: str, topic: CompactedTopic, known: Mapping[bytes, bytes]
) -> Mapping[bytes, bytes]:
    """Return what the topic holds of the site now, by key. known: what was read before."""
    values, prefix = dict(known), lease_key(name)
    for message in topic.read_to_end():
        if message.key is None or not message.key.startswith(prefix):
            continue
        if message.value is None:
            values.pop(message.key, None)
        else:
            values[message.key] = message.value
    return values


def _decoded(name: str, values: Mapping[bytes, bytes]) -> LastReports:
    """Return the reports among what the topic holds of the site."""
    key_of_lease = lease_key(name)
    return {
        key.removeprefix(key_of_lease).decode("utf-8", "replace"): _report_in(value)
        for key, value in sorted(values.items())
        if key != key_of_lease
    }


def _report_in(value: bytes) -> SiteProgress | None:
    try:
        return decode(value, SiteProgress)
    except BadInput:
        return None


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
