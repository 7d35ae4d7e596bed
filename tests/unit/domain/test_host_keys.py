"""Codes of commands: the format, what changes them, and whose sessions are whose."""

from __future__ import annotations

from uuid import UUID

import pytest

from mirrorlog.domain.host_keys import (
    CODE_HEADER,
    NO_KEYS,
    CommandSigner,
    Holder,
    HostKey,
    HostKeys,
    command_code,
    is_owned,
    is_session_of,
    parse_host_key,
    session_of,
)
from mirrorlog.errors import BadUse

KEY = HostKey("east/1", bytes(range(32)))
OTHER = HostKey("west/1", bytes(range(1, 33)))
KEYS = HostKeys(
    {key.id: key for key in (KEY, OTHER)},
    {"east": Holder("east", ("vm-*", "db")), "west": Holder("west", ("web",))},
)
MESSAGE = {
    "topic": "mirrorlog.commands",
    "partition": 3,
    "message_key": b"db",
    "value": b"\xc3\x01",
}


def test_the_code_of_a_message_is_the_one_that_openssl_makes() -> None:
    """The input was put together by hand, from the text in host_keys.py, and went through
    `openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1f`."""
    code = command_code(KEY, **MESSAGE)  # type: ignore[arg-type]
    digest = "72582dc70e274c22193374a1c1aa3fb0bc732624f15ef7d2bd0a2c468ecebec9"
    assert code.hex() == f"01{digest}{b'east/1'.hex()}"


def test_the_node_finds_the_holder_of_the_key() -> None:
    headers = CommandSigner("mirrorlog.commands", KEY).headers(
        "mirrorlog.commands", 3, b"db", b"\xc3\x01"
    )
    holder = KEYS.holder_of([("other", b""), *headers], **MESSAGE)  # type: ignore[arg-type]
    assert isinstance(holder, Holder)
    assert (holder.name, holder.may_touch("vm-7"), holder.may_touch("web")) == ("east", True, False)


@pytest.mark.parametrize(
    "changed",
    [
        {"topic": "west.commands"},
        {"partition": 4},
        {"message_key": None},
        {"message_key": b"d", "value": b"b\xc3\x01"},
        {"value": b"\xc3\x02"},
    ],
)
def test_a_code_counts_for_one_message_alone(changed: dict[str, object]) -> None:
    headers = [(CODE_HEADER, command_code(KEY, **MESSAGE))]  # type: ignore[arg-type]
    said = KEYS.holder_of(headers, **(MESSAGE | changed))  # type: ignore[arg-type]
    assert isinstance(said, str)
    assert "isn't that of host key east/1" in said


def test_a_code_of_an_unknown_key_or_format_or_none_counts_for_nothing() -> None:
    code = command_code(KEY, **MESSAGE)  # type: ignore[arg-type]
    for keys, header, expected in (
        (NO_KEYS, code, "doesn't have"),
        (KEYS, b"\x02" + code[1:], "format"),
        (KEYS, code[:33], "format"),
        (KEYS, b"", "format"),
        (KEYS, code[:33] + b"west/1", "isn't that of host key west/1"),
        (KEYS, code[:33] + b"\xff", "doesn't have"),
    ):
        said = keys.holder_of([(CODE_HEADER, header)], **MESSAGE)  # type: ignore[arg-type]
        assert isinstance(said, str)
        assert expected in said
    assert "no code" in str(KEYS.holder_of([], **MESSAGE))  # type: ignore[arg-type]


def test_only_commands_carry_codes() -> None:
    signer = CommandSigner("mirrorlog.commands", KEY)
    assert signer.headers("mirrorlog.progress", 0, b"k", b"v") == []
    assert signer.headers("mirrorlog.commands", 0, b"k", None) == []


def test_a_key_is_read_as_it_is_written_and_an_error_shows_no_secret() -> None:
    assert parse_host_key(KEY.as_text() + "\n") == KEY
    assert "secret" not in repr(KEY)
    secret = KEY.as_text().partition(":")[2]
    for text in (
        secret,
        f"east:{secret}",
        f"/1:{secret}",
        f"east/1:{secret[:20]}",
        f"e/1:{secret}é",
    ):
        with pytest.raises(BadUse) as refused:
            parse_host_key(text)
        assert secret[:20] not in str(refused.value)


def test_a_session_belongs_to_the_holder_that_made_its_id() -> None:
    session = session_of("east", bytes(range(8)))
    assert UUID(session).version == 8
    assert is_session_of(session, "east")
    assert not is_session_of(session, "west")
    assert is_owned(session)
    assert not is_owned(str(UUID(int=7, version=4)))
    assert not is_owned("*")
    assert not is_session_of("no uuid", "east")
    assert session != session_of("east", bytes(range(1, 9)))


def test_the_node_repeats_a_command_with_a_key_of_its_sender() -> None:
    both = HostKeys(KEYS.keys, {name: Holder(name, ("*",)) for name in ("east", "west")})
    assert both.key_for("db", session_of("west", bytes(8))) == OTHER
    assert both.key_for("db", "a session of nobody") == KEY
    assert KEYS.key_for("web", session_of("east", bytes(8))) == OTHER
    assert KEYS.key_for("unknown", session_of("east", bytes(8))) is None
