"""Nobody but the holder of a host key that may touch a volume changes anything of it.

Holder east may touch volume "db". Holder west is a host as well, and so reads all commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from keyed_node import EAST, KEYS, SESSION, THEIRS, TOPICS, WEST, KeyedCluster
from notation import GENERATION, OTHER_GENERATION, PRIMARY_ID, command, message, volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import (
    CommandKind,
    RejectReason,
    StatusCode,
    TrackingCommand,
)
from mirrorlog.domain.host_keys import HostKey, HostKeys, session_of
from mirrorlog.domain.promotions import PromotionCommand
from mirrorlog.streams.fold.authenticity import Authenticity
from mirrorlog.streams.fold.response import check_command
from mirrorlog.streams.fold.volume_fold import update_session, zeroed_blocks
from mirrorlog.streams.table.rebuild_check import check_records
from mirrorlog.streams.table.record_digests import RecordDigests
from mirrorlog.tracking_log.heads import SessionHead
from mirrorlog.tracking_log.keys import key_kind
from mirrorlog.tracking_log.records import LogRecord


@pytest.fixture
def cluster() -> KeyedCluster:
    """Return a cluster in which east's host has "db" open, has written, and sent a heartbeat."""
    made = KeyedCluster()
    made.east(CommandKind.SESSION_OPEN)
    made.east(CommandKind.WRITES, "0+4096")
    made.fold()
    made.send(heartbeat(made.end - 1), EAST)
    made.fold()
    return made


def heartbeat(known: int, kind: CommandKind = CommandKind.HEARTBEAT) -> TrackingCommand:
    """Return a heartbeat, or a close, of east's session for all its volumes."""
    return command("", "", session=SESSION, kind=kind, generation="", acknowledged_position=known)


def promotion(fields: Mapping[str, object]) -> PromotionCommand:
    made = command("", "db", kind=CommandKind.PROMOTE, new_generation=OTHER_GENERATION, **fields)
    parts = {name: getattr(made, name) for name in made.__dataclass_fields__}
    return PromotionCommand(
        **parts, site="berlin", primary="memory:b", primary_id=PRIMARY_ID, parted_position=None
    )


# What somebody else may try, by name: the kind, the extents, and the other fields.
ATTEMPTS: dict[str, tuple[CommandKind, str, dict[str, object]]] = {
    "opening": (CommandKind.SESSION_OPEN, "", {"session": THEIRS, "sequence": 0}),
    "its session's next write": (CommandKind.WRITES, "8192+4096", {"sequence": 2}),
    "zeros": (CommandKind.WRITES, "z0+4096", {"sequence": 2}),
    "zeros without a session": (CommandKind.WRITES, "z0+4096", {"sequence": -1}),
    "its session's next heartbeat": (CommandKind.HEARTBEAT, "", {"sequence": 2}),
    "its session's close": (CommandKind.SESSION_CLOSE, "", {"sequence": 2}),
    "a close by an operator": (CommandKind.SESSION_CLOSE, "", {"sequence": -1}),
    "a resize": (CommandKind.RESIZE, "", {"size_bytes": 1 << 21, "sequence": -1}),
    "an end": (CommandKind.RETIRE, "", {"sequence": -1}),
    "a renewal": (
        CommandKind.NEW_GENERATION, "", {"new_generation": OTHER_GENERATION, "sequence": -1}
    ),
    "a promotion": (CommandKind.PROMOTE, "", {"sequence": -1}),
    "a barrier": (CommandKind.BARRIER, "", {"note": "x", "sequence": -1}),
    "dirty blocks": (CommandKind.MARK_DIRTY, "4096+4096", {"sequence": -1}),
    "a broken history": (CommandKind.WRITES, "", {"acknowledged_position": 10**6, "sequence": 2}),
}  # fmt: skip


@pytest.mark.parametrize("by", ["nobody", "west", "west with its own session"])
def test_commands_of_somebody_else_change_nothing_and_are_named(
    by: str, cluster: KeyedCluster
) -> None:
    before, end, sent = cluster.believed(), cluster.end, {}
    for attempt, (kind, text, more) in ATTEMPTS.items():
        fields: dict[str, object] = {
            "host": "east", "session": SESSION, "acknowledged_position": end - 1, **more
        }  # fmt: skip
        if by == "west with its own session" and fields["sequence"] != -1:
            fields["session"] = THEIRS
        made = command(text, "db", kind=kind, **fields)
        if kind is CommandKind.PROMOTE:
            made = promotion(fields)
        sent[attempt] = cluster.send(made, None if by == "nobody" else WEST)
    cluster.fold()
    assert cluster.believed() == before
    assert cluster.blocks(after=end - 1) == ({0, 1, 2}, set())
    statuses = cluster.statuses()
    answers = {attempt: (statuses[at].code, statuses[at].reason) for attempt, at in sent.items()}
    refused = (StatusCode.REJECTED, RejectReason.NOT_AUTHENTIC)
    assert answers == dict.fromkeys(ATTEMPTS, refused)
    why = "no code" if by == "nobody" else "west"
    assert [attempt for attempt, at in sent.items() if why not in statuses[at].text] == []
    assert cluster.quarantined() == list(sent.values())
    # East's own work goes on.
    position = cluster.east(CommandKind.WRITES, "z12288+4096")
    cluster.fold()
    assert cluster.statuses()[position].code is StatusCode.ACCEPTED
    assert cluster.blocks(after=position - 1) == ({3}, {3})


@pytest.mark.parametrize("authenticity", [None, Authenticity(KEYS)])
def test_the_log_equals_the_commands_for_who_has_the_keys_and_who_has_not(
    authenticity: Authenticity | None, cluster: KeyedCluster
) -> None:
    for kind, text, more in ATTEMPTS.values():
        if kind is not CommandKind.PROMOTE:
            fields = {"session": SESSION, "acknowledged_position": 1, **more}
            cluster.send(command(text, "db", kind=kind, **fields), WEST)
    zeros = cluster.east(CommandKind.WRITES, "z4096+4096")
    cluster.fold()
    cluster.resend(zeros)
    cluster.fold()
    records = [
        decode(row.value, LogRecord)
        for row in cluster.broker.messages(TOPICS.changelog)
        if key_kind(row.key or b"") is LogRecord and row.value is not None
    ]
    messages = cluster.broker.messages(TOPICS.commands)
    described = {"db": volume("db", authenticated_after=-1)}
    differences = check_records(
        messages,
        described,
        RecordDigests(records),
        where="changelog",
        reread=lambda: records,
        authenticity=authenticity,
    )
    assert [str(difference) for difference in differences] == []


def test_a_close_of_sessions_that_nobody_names_costs_reads(cluster: KeyedCluster) -> None:
    """That of somebody who may send it makes the whole volume dirty, too."""
    before, end = cluster.believed(), cluster.end
    made = command("", "db", kind=CommandKind.SESSION_CLOSE, session="*", sequence=-1)
    cluster.send(made, WEST)
    cluster.fold()
    assert cluster.believed() == before
    assert cluster.blocks(after=end - 1) == (set(range(256)), set())


@pytest.mark.parametrize("kind", [CommandKind.HEARTBEAT, CommandKind.SESSION_CLOSE])
@pytest.mark.parametrize("key", [None, WEST, HostKey("east/1", bytes(32))])
def test_a_heartbeat_for_all_volumes_of_a_session_is_its_holders(
    kind: CommandKind, key: HostKey | None, cluster: KeyedCluster
) -> None:
    before = cluster.believed()
    position = cluster.send(heartbeat(cluster.end, kind=kind), key)
    cluster.fold()
    assert cluster.believed() == before
    assert cluster.statuses()[position].reason == RejectReason.NOT_AUTHENTIC
    known = cluster.end - 1
    cluster.send(heartbeat(known), EAST)
    cluster.fold()
    assert cluster.believed()[1] == known


def test_a_host_whose_key_is_wrong_opens_nothing_and_its_blocks_are_dirty(
    cluster: KeyedCluster,
) -> None:
    before, end = cluster.believed(), cluster.end
    for kind, text, sequence in (
        (CommandKind.SESSION_OPEN, "", 0),
        (CommandKind.WRITES, "0+4096 z4096+4096", 1),
    ):
        made = command(
            text, "db", kind=kind, sequence=sequence, session=session_of("east", bytes([1] * 8))
        )
        position = cluster.send(made, HostKey("east/1", bytes(32)))
    cluster.fold()
    assert cluster.believed() == before
    assert cluster.blocks(after=end - 1) == ({0, 1}, set())
    assert "another secret" in cluster.statuses()[position].text


def test_a_key_can_be_changed_while_commands_of_the_old_one_are_on_their_way(
    cluster: KeyedCluster,
) -> None:
    new = HostKey("east/2", bytes([7] * 32))
    cluster.keys.keys = replace(KEYS, keys={**KEYS.keys, new.id: new})
    old = cluster.east(CommandKind.WRITES, "4096+4096")
    cluster.fold()
    made = command("8192+4096", "db", session=SESSION, sequence=3, acknowledged_position=0)
    position = cluster.send(made, new)
    cluster.fold()
    codes = [cluster.statuses()[at].code for at in (old, position)]
    assert codes == [StatusCode.ACCEPTED] * 2
    cluster.keys.keys = replace(KEYS, keys={new.id: new, WEST.id: WEST})
    refused = cluster.east(CommandKind.WRITES, "4096+4096")
    cluster.fold()
    assert "doesn't have" in cluster.statuses()[refused].text


def test_a_node_without_keys_believes_nothing_of_an_authenticated_volume(
    cluster: KeyedCluster,
) -> None:
    before = cluster.believed()
    cluster.keys.keys = HostKeys({}, {})
    position = cluster.east(CommandKind.WRITES, "z0+4096")
    cluster.fold()
    assert cluster.believed() == before
    assert cluster.statuses()[position].reason == RejectReason.NOT_AUTHENTIC
    assert cluster.blocks(after=position - 1) == ({0}, set())


def test_commands_from_before_a_volume_was_authenticated_need_no_code() -> None:
    cluster = KeyedCluster()
    described = volume("db", authenticated_after=1)
    cluster.broker.append(TOPICS.volumes, 0, b"db", encode(described))
    for sequence in range(3):
        made = command("z0+4096", "db", sequence=sequence)
        cluster.send(made, None)
    cluster.fold()
    codes = [status.code for status in cluster.statuses().values()]
    assert codes == [StatusCode.ACCEPTED, StatusCode.ACCEPTED, StatusCode.REJECTED]


class TestBytesThatAreSentAgain:
    """Any host reads the commands, so it has the bytes and codes of all of them."""

    def test_zeros_of_yesterday_are_not_zeros_of_today(self, cluster: KeyedCluster) -> None:
        zeros = cluster.east(CommandKind.WRITES, "z4096+4096")
        cluster.fold()
        assert cluster.blocks(after=zeros - 1) == ({1}, {1})
        written = cluster.east(CommandKind.WRITES, "4096+4096")
        cluster.fold()
        before = cluster.believed()
        cluster.resend(zeros)
        cluster.fold()
        assert cluster.blocks(after=written) == ({1}, set())
        assert cluster.believed() == before

    def test_an_operators_zeros_prove_nothing(self, cluster: KeyedCluster) -> None:
        made = command("z4096+4096", "db", sequence=-1, acknowledged_position=0)
        position = cluster.send(made, EAST)
        cluster.fold()
        assert cluster.statuses()[position].code is StatusCode.ACCEPTED
        assert cluster.blocks(after=position - 1) == ({1}, set())

    def test_a_close_does_not_end_a_session_that_opened_the_volume_again(
        self, cluster: KeyedCluster
    ) -> None:
        close = cluster.east(CommandKind.SESSION_CLOSE)
        cluster.fold()
        cluster.east(CommandKind.SESSION_OPEN)
        cluster.fold()
        before = cluster.believed()
        cluster.resend(close)
        cluster.fold()
        assert cluster.believed() == before
        (session,) = before[0]  # type: ignore[misc]
        assert session.is_open

    def test_an_operators_close_counts_once(self, cluster: KeyedCluster) -> None:
        made = command(
            "", "db", session=SESSION, kind=CommandKind.SESSION_CLOSE, sequence=-1,
            acknowledged_position=cluster.end - 1,
        )  # fmt: skip
        close = cluster.send(made, EAST)
        cluster.fold()
        cluster.east(CommandKind.WRITES, "0+4096")  # it lives: the operator was mistaken
        cluster.fold()
        before = cluster.believed()
        again = cluster.resend(close)
        cluster.fold()
        assert cluster.believed() == before
        assert cluster.statuses()[again].code is StatusCode.STALE_SESSION

    def test_a_session_that_the_head_has_forgotten_is_not_opened_again(
        self, cluster: KeyedCluster
    ) -> None:
        opened = 0
        cluster.east(CommandKind.SESSION_CLOSE)
        for number in range(10):
            session = session_of("east", bytes([number + 1] * 8))
            cluster.east(CommandKind.SESSION_OPEN, session=session)
            cluster.east(CommandKind.SESSION_CLOSE, session=session)
            cluster.fold()
        before = cluster.believed()
        assert SESSION not in {head.session for head in before[0]}  # type: ignore[attr-defined]
        # The session's first command knew no position: there was none.
        late = cluster.east(CommandKind.SESSION_OPEN, acknowledged_position=opened)
        cluster.fold()
        assert cluster.believed() == before
        assert cluster.statuses()[late].code is StatusCode.STALE_SESSION

    def test_a_renewal_is_not_repeated(self, cluster: KeyedCluster) -> None:
        fields = {"sequence": -1, "kind": CommandKind.NEW_GENERATION}
        first = command("", "db", new_generation=OTHER_GENERATION, **fields)
        second = replace(first, generation=OTHER_GENERATION, new_generation=GENERATION)
        renewed = cluster.send(first, EAST)
        cluster.fold()
        cluster.send(second, EAST)
        cluster.fold()
        before = cluster.believed()
        assert before[2].generation == GENERATION  # type: ignore[attr-defined]
        cluster.send(replace(first, generation="33333333-3333-4333-8333-333333333334"), EAST)
        again = cluster.resend(renewed + 1)
        cluster.fold()
        assert cluster.believed() == before
        assert cluster.statuses()[again].reason == RejectReason.OTHER_GENERATION

    def test_a_node_that_reads_its_own_past_again_changes_no_session(self) -> None:
        """Then the head holds the session as it was behind these commands already."""
        known = SessionHead(SESSION, "east", opened_position=3, last_position=9, last_sequence=4)
        for kind, sequence in ((CommandKind.SESSION_CLOSE, 2), (CommandKind.WRITES, 4)):
            made = command(
                "z0+4096", "db", session=SESSION, kind=kind, sequence=sequence,
                acknowledged_position=1,
            )  # fmt: skip
            described = volume("db", authenticated_after=-1)
            response = check_command(message(7, made), made, described)
            sessions = {SESSION: known}
            order = update_session(sessions, response)
            assert (order.code, order.may_repeat) == (StatusCode.ACCEPTED, True)
            assert sessions == {SESSION: known}
            assert not zeroed_blocks([response], [order])


def test_the_nodes_own_commands_are_authentic(cluster: KeyedCluster) -> None:
    next(cluster.sequences[SESSION])
    gap = cluster.east(CommandKind.WRITES, "0+4096")
    cluster.fold()
    cluster.fold()
    statuses = cluster.statuses()
    assert statuses[gap].code is StatusCode.SEQUENCE_GAP
    assert [statuses[at].code for at in range(gap + 1, cluster.end)] == [StatusCode.ACCEPTED]
