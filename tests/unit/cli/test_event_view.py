"""Which volume a message is about, by its event or, for a tombstone, by its key."""

from __future__ import annotations

import pytest
from notation import command, record

from mirrorlog.cli.support.event_view import event_line, message_fields, volume_of
from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import Quarantined
from mirrorlog.ports.streams import Message
from mirrorlog.tracking_log.keys import beat_key, head_key, record_key, watermark_key

REFUSED = Quarantined(
    partition=0, position=1, reason="r", text="", at_us=1, key=b"v", value=b"junk"
)
CASES: dict[str, tuple[str, bytes | None, bytes | None, str | None]] = {
    "a command": ("commands", b"v", encode(command("0+4096")), "v"),
    "bytes that are no event": ("commands", b"v", b"junk", "v"),
    "a key that is no text": ("commands", b"\xff", b"junk", None),
    "a refused event": ("quarantine", b"q", encode(REFUSED), "v"),
    "a record": ("log", b"k", encode(record("1..2", "1", name="v")), "v"),
    "a record of what a site missed": ("log", b"k", encode(record("1..2", "1", name="v@s")), "v"),
    "a record's tombstone": ("log", record_key(record("1..2", "1", name="v@s")), None, "v"),
    "a head's tombstone": ("log", head_key("v"), None, "v"),
    "a beat's tombstone": ("log", beat_key("v"), None, None),
    "a watermark's tombstone": ("log", watermark_key(0), None, None),
    "a description's tombstone": ("volumes", b"v", None, "v"),
    "a report's tombstone": ("progress", b"s/v", None, "v"),
    "a site's lease given up": ("progress", b"s", None, None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_message_is_about_its_volume(name: str) -> None:
    topic, key, value, volume = CASES[name]
    message = Message(topic, 0, 5, key, value)
    assert volume_of(message, topic_of_log="log", topic_of_volumes="volumes") == volume


def test_a_line_says_when_and_where() -> None:
    fields = message_fields(Message("t", 2, 5, b"v", None, at_us=1_000_000))
    assert event_line("t", fields) == (
        '1970-01-01T00:00:01.000000Z  t 2@5  tombstone  {"key": "76"}'
    )
    fields = message_fields(Message("t", 2, 5, b"v", b"junk"))
    assert fields["published_at"] is None
    assert event_line("t", fields).startswith("-  t 2@5  undecodable  {")
