"""The rows of a volume's commands, as they are read from the commands topic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from logs import Log
from notation import OTHER_GENERATION, command, promotion, volume

from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import (
    CommandKind,
    ForkOutcomes,
    RawCommand,
    TrackingCommand,
    WireProtocol,
)
from mirrorlog.domain.volumes import EarlierSize, Volume
from mirrorlog.errors import OutOfRetention
from mirrorlog.history import topic_history
from mirrorlog.history.batches import join_batches
from mirrorlog.history.source import CoveredRange
from mirrorlog.history.topic_history import TopicHistory
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.read_through import ReadPatience

OF = volume()


def history(log: Log) -> TopicHistory:
    """Return the history of a log's commands topic."""
    patience = ReadPatience(SystemClock(), 0.0, "reading")
    return TopicHistory(log.open_reader, log.broker, log.topics, patience)


def rows(
    *commands: TrackingCommand | bytes, of: Volume = OF, key: bytes = b"v"
) -> list[dict[str, object]]:
    """Return the rows of these commands, which begin at position 0."""
    log = Log([of])
    for sent in commands:
        value = sent if isinstance(sent, bytes) else encode(sent)
        log.broker.append(log.topics.commands, 0, key, value)
    read = history(log).batches(of, after=-1, through=len(commands) - 1)
    return join_batches(list(read)).to_dicts()


# a command | its rows: kind, offset+length or -, what else isn't null
CASES = {
    "writes, zeros and discards": (
        command("0+4096 z4096+4096 d8192+1"),
        ["write 0+4096", "zero 4096+4096", "discard 8192+1"],
    ),
    "a batch without an extent": (command(), ["empty -"]),
    "an opening": (command(kind=CommandKind.SESSION_OPEN), ["session_open -"]),
    "a close with what was in flight": (
        command("0+1", kind=CommandKind.SESSION_CLOSE),
        ["session_close -", "dirty 0+1"],
    ),
    "a barrier with the open batch": (
        command("z0+1", kind=CommandKind.BARRIER, note="b"),
        ["barrier -", "dirty 0+1"],
    ),
    "a range marked dirty": (command("z0+1", kind=CommandKind.MARK_DIRTY), ["dirty 0+1"]),
    "a retirement": (command(kind=CommandKind.RETIRE), ["retire -"]),
    "a renewal": (
        command(kind=CommandKind.NEW_GENERATION, new_generation=OTHER_GENERATION),
        ["new_generation -"],
    ),
    "a promotion": (promotion(parted_position=-1), ["promote -"]),
    "an extent across the end": (command(f"{OF.size_bytes - 1}+9"), [f"write {(1 << 20) - 1}+1"]),
    "an extent behind the end": (command("2**20+9"), ["refused 1048576+9 OUT_OF_RANGE"]),
    "an extent above 2^63": (
        command("0+2**63 0+1"),
        [f"refused 0+{1 << 63} OUT_OF_RANGE", "write 0+1"],
    ),
    "a write from the wire": (
        command(
            kind=CommandKind.RAW,
            raw=(RawCommand(WireProtocol.SCSI, bytes([0x2A, 0, 0, 0, 0, 8, 0, 0, 1, 0])),),
            logical_block_bytes=512,
        ),
        ["write 4096+512"],
    ),
    "a read from the wire": (
        command(
            kind=CommandKind.RAW,
            raw=(RawCommand(WireProtocol.SCSI, bytes([0x28, *[0] * 9])),),
            logical_block_bytes=512,
        ),
        ["empty -"],
    ),
    "a damaged command from the wire": (
        command("0+1", kind=CommandKind.RAW, raw=(RawCommand(WireProtocol.NBD, b"12"),)),
        ["write 0+1", "refused - MALFORMED_COMMAND"],
    ),
    "bytes that are no command": (b"nothing", ["refused - UNDECODABLE"]),
}


def shown(row: dict[str, object]) -> str:
    where = "-" if row["offset"] is None else f"{row['offset']}+{row['length']}"
    return " ".join(filter(None, (str(row["kind"]), where, row["reason"] and str(row["reason"]))))


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_command_has_its_rows(case: str) -> None:
    sent, expected = CASES[case]
    read = rows(sent)
    assert [shown(row) for row in read] == expected
    assert [row["extent"] for row in read] == list(range(len(expected)))


def test_a_grown_region_is_dirty_behind_the_row_of_its_resize() -> None:
    before = OF.size_bytes
    earlier = (EarlierSize(before_position=1, size_bytes=before),)
    of = replace(OF, size_bytes=before + 4096, described_position=1, earlier_sizes=earlier)
    read = rows(
        command(f"0+1 {before}+1"),
        command(kind=CommandKind.RESIZE, size_bytes=before + 4096),
        command(f"{before}+1"),
        of=of,
    )
    assert [shown(row) for row in read] == [
        "write 0+1",
        f"refused {before}+1 OUT_OF_RANGE",
        "resize -",
        f"dirty {before}+4096",
        f"write {before}+1",
    ]
    assert [row["size_bytes"] for row in read] == [None, None, before + 4096, before + 4096, None]


def test_a_command_that_the_volume_refuses_says_why() -> None:
    read = rows(command(kind=CommandKind.RESIZE, size_bytes=4096))
    assert [(r["kind"], r["reason"]) for r in read] == [("resize", "SHRINKING")]


def test_outcomes_are_named_by_extent_and_site() -> None:
    read = rows(
        command("0+1 1+1 2+1", forks=(ForkOutcomes("a", bytes([0, 1, 2])), ForkOutcomes("b"))),
        command("0+1", forks=(ForkOutcomes("a", bytes([9])),)),
        command("0+1 1+1", forks=(ForkOutcomes("a", bytes([1])),)),
        command("0+1"),
    )
    assert [row["forks"] for row in read] == [
        (("a", "missed"), ("b", "has")),
        (("a", "has"), ("b", "has")),
        (("a", "open"), ("b", "has")),
        (("a", "missed"),),
        None,
        None,
        None,
    ]


def test_rows_keep_their_generation_and_other_volumes_have_none() -> None:
    read = rows(
        command("0+1", generation=OTHER_GENERATION),
        command("0+1", name="w"),
        command("", name="", kind=CommandKind.HEARTBEAT),
        command("0+2"),
    )
    assert [(row["position"], row["generation"]) for row in read] == [
        (0, OTHER_GENERATION),
        (3, OF.generation),
    ]


def test_bytes_of_nobody_are_in_no_history() -> None:
    assert rows(b"nothing", key=b"w") == []


@pytest.mark.parametrize("commands_at_once", [1, 2, 100])
def test_batches_follow_each_other_over_gaps(
    commands_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_history, "_BATCH_COMMANDS", commands_at_once)
    log = Log([OF])
    log.publish([command(f"{number}+1", sequence=number) for number in range(7)])
    messages = log.broker.partition(log.topics.commands, 0).messages
    del messages[3], messages[-1]  # as control records leave a gap, also at the end
    batches = list(history(log).batches(OF, after=0, through=6))
    assert batches[-1].through == 6
    assert sorted(batch.through for batch in batches) == [batch.through for batch in batches]
    assert [row["position"] for row in join_batches(batches).to_dicts()] == [1, 2, 4, 5]


def test_what_retention_took_is_not_covered_and_never_read_over() -> None:
    log = Log([OF])
    log.publish([command("0+1", sequence=number) for number in range(5)])
    log.broker.trim(log.topics.commands, 0, 2)
    source = history(log)
    assert source.covered(OF) == [CoveredRange(after=1, through=4)]
    with pytest.raises(OutOfRetention):
        next(source.batches(OF, after=0, through=4))
    assert join_batches(list(source.batches(OF, after=1, through=4))).rows == 3


def test_an_empty_topic_covers_nothing() -> None:
    assert history(Log([OF])).covered(OF) == []
