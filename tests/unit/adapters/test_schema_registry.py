"""Events in Confluent's wire format: what is written, what is read, and a registry that is away."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import fastavro
import pytest
from hostile_bytes import events
from notation import command, volume
from schema_registries import FakeRegistry, fake_registry

from mirrorlog.adapters.schema_registry.wire_format import WireFormat, wire_format_of
from mirrorlog.codec.events import encode
from mirrorlog.errors import KafkaFailed
from mirrorlog.registry_access import RegistryAccess
from mirrorlog.settings import load_settings

COMMAND = encode(command("0+4096"))


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as served:
        yield served


def test_every_event_of_every_version_comes_back_as_it_was(registry: FakeRegistry) -> None:
    writer = WireFormat(RegistryAccess(registry.url))
    reader = WireFormat(RegistryAccess(registry.url))
    for event in events():
        wire = writer.outgoing("topic", event)
        assert wire is not None
        assert wire[0] == 0
        assert wire[5:] == event[10:]
        assert reader.incoming(wire) == event
        assert reader.incoming(event) == event  # both formats are read
    assert all(subject.startswith("topic-mirrorlog") for subject in registry.subjects)


def test_another_client_reads_an_event_by_the_schema_in_the_registry(
    registry: FakeRegistry,
) -> None:
    wire = WireFormat(RegistryAccess(registry.url)).outgoing("t", encode(volume("vol1")))
    assert wire is not None
    schema = fastavro.parse_schema(json.loads(registry.schemas[int.from_bytes(wire[1:5], "big")]))
    fields = fastavro.schemaless_reader(BytesIO(wire[5:]), schema, None)
    assert isinstance(fields, dict)
    assert fields["volume"] == "vol1"


def test_an_id_is_asked_for_once_and_is_known_to_the_next_start(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    file = tmp_path / "ids.json"
    writer = WireFormat(RegistryAccess(registry.url, ids_file=file))
    wire = [writer.outgoing("t", COMMAND) for _ in range(3)]
    assert registry.requests == 1
    registry.status = 503
    assert writer.outgoing("t", COMMAND) == wire[0]
    assert WireFormat(RegistryAccess(registry.url, ids_file=file)).incoming(wire[0]) == COMMAND
    with pytest.raises(KafkaFailed, match="status 503"):  # another registry's ids mean nothing
        WireFormat(RegistryAccess(registry.url + "/", ids_file=file)).incoming(wire[0])


def test_an_event_of_a_known_kind_costs_no_look_at_its_schema(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = WireFormat(RegistryAccess(registry.url))
    first = writer.outgoing("t", COMMAND)
    monkeypatch.delattr("mirrorlog.codec.events.schema_with_header")
    assert writer.outgoing("t", COMMAND) == first


def test_no_write_waits_for_a_registry_that_is_away(
    registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.status = 503
    access = RegistryAccess(registry.url)
    writer = WireFormat(access)
    with caplog.at_level(logging.WARNING):
        for topic in "tu":
            assert [writer.outgoing(topic, COMMAND) for _ in range(3)] == [COMMAND] * 3
        assert registry.requests == 1
        access.retry_at_s.clear()
        assert writer.outgoing("u", COMMAND) == COMMAND
        assert registry.requests == 2
        # It is said once, and not for each kind of event and each time.
        assert ["plain format" in record.message for record in caplog.records] == [True]
        registry.status = 200
        access.retry_at_s.clear()
        for topic in "tu":
            wire = writer.outgoing(topic, COMMAND)
            assert wire is not None
            assert wire[0] == 0
    assert ["works again" in record.message for record in caplog.records] == [False, True]


def test_an_unknown_id_is_an_error_as_long_as_the_registry_is_away(registry: FakeRegistry) -> None:
    wire = WireFormat(RegistryAccess(registry.url)).outgoing("t", COMMAND)
    reader = WireFormat(RegistryAccess(registry.url))
    registry.status = 500
    assert reader.unknown_ids([wire, COMMAND, None, b""]) == {1}
    with pytest.raises(KafkaFailed):
        reader.incoming(wire)
    registry.status = 200
    assert reader.incoming(wire) == COMMAND


def test_what_others_wrote_stays_as_it_is(registry: FakeRegistry) -> None:
    foreign = registry.add("x-value", '{"type": "record", "name": "x", "fields": []}')
    wire_format = WireFormat(RegistryAccess(registry.url))
    for value in (b"", b"\0", b"\0\0\0\0", b"text", None, b"\0" + foreign.to_bytes(4, "big")):
        assert wire_format.incoming(value) == value
    assert wire_format.incoming(b"\0\0\0\0\x63xyz") == b"\0\0\0\0\x63xyz"  # the registry has no 99
    assert wire_format.outgoing("t", b"text") == b"text"


def test_settings_say_how_the_registry_is_reached(registry: FakeRegistry, tmp_path: Path) -> None:
    assert wire_format_of(load_settings().kafka_client()) is None
    (tmp_path / "login").write_text("alice:hunter2\n")
    given = {
        "schema_registry_url": registry.url,
        "schema_registry_user_info_file": str(tmp_path / "login"),
        "state_dir": tmp_path,
    }
    wire_format = wire_format_of(load_settings(None, given).kafka_client())
    assert wire_format is not None
    wire_format.outgoing("t", COMMAND)
    assert registry.authorizations == {"Basic YWxpY2U6aHVudGVyMg=="}
    assert "hunter2" not in repr(load_settings(None, given))
