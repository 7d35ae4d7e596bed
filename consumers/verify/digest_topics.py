"""The topics of verifications: how their events are published, and read from now on.

Each has one partition. An event has the key SITE/VOLUME of the secondary that it is about.
"""

from __future__ import annotations

from typing import Final

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.verifications import DigestAnswer, DigestQuestion, VerificationReport
from mirrorlog.errors import BadInput
from mirrorlog.ports.streams import Message, Publisher, TopicAdmin, TopicReader

PARTITION: Final = 0


def key_of(site: str, volume: str) -> bytes:
    """Return the key of what is about a site's secondary of a volume."""
    return f"{site}/{volume}".encode()


def publish_event(
    publisher: Publisher, topic: str, event: DigestQuestion | DigestAnswer | VerificationReport
) -> None:
    """Publish an event, and run the callbacks that are due."""
    publisher.publish(topic, PARTITION, key_of(event.site, event.volume), encode(event))
    publisher.poll(0)


def read_from_now(reader: TopicReader, admin: TopicAdmin, topic: str) -> None:
    """Let the reader return what is published after the call. Raise KafkaFailed."""
    reader.assign(topic, {PARTITION: admin.end_position(topic, PARTITION)})


def answer_in(message: Message) -> DigestAnswer | None:
    """Return the answer in a message; None if it is something else, or of a newer release."""
    try:
        event = decode(message.value or b"", object)
    except BadInput:
        return None
    return event if isinstance(event, DigestAnswer) else None
