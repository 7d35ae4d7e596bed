"""Events survive encoding and decoding, old bytes stay readable, and damaged bytes are refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from notation import GENERATION, promotion, recorded

from mirrorlog.codec.events import decode, encode, schema_fingerprint
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import (
    CommandKind,
    CommandStatus,
    ForkOutcomes,
    Quarantined,
    RawCommand,
    StatusCode,
    TrackingCommand,
    WireProtocol,
)
from mirrorlog.domain.extents import U64, Extent, ExtentColumns
from mirrorlog.domain.histories import History, anchor_of
from mirrorlog.domain.log_questions import LogAnswer, LogQuestion, PartitionQuestion
from mirrorlog.domain.promotions import Promotion
from mirrorlog.domain.recorded_writes import RecordedWrites
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.domain.verifications import (
    ByteRange,
    DigestAnswer,
    DigestQuestion,
    Side,
    VerificationReport,
    VerificationState,
)
from mirrorlog.domain.volumes import EarlierSize, Volume, VolumeState
from mirrorlog.errors import BadInput
from mirrorlog.tracking_log.heads import ForkHead, SessionBeat, SessionHead, VolumeHead, Watermark
from mirrorlog.tracking_log.publication_delays import PublicationDelays
from mirrorlog.tracking_log.records import LogRecord

SCHEMAS = Path(__file__).parents[3] / "schemas"
I64 = st.integers(-(2**63), 2**63 - 1)
POSITION = st.integers(-1, 2**63 - 1)
TEXT = st.text(max_size=20)
BLOCKS = st.sets(st.integers(0, 2**63 - 1), max_size=30).map(BlockSet)


@st.composite
def commands(draw: st.DrawFn) -> TrackingCommand:
    count = draw(st.integers(0, 20))
    u64 = st.lists(st.integers(0, 2**64 - 1), min_size=count, max_size=count).map(
        lambda v: np.array(v, U64)
    )
    kinds = st.none() | st.lists(st.integers(0, 2), min_size=count, max_size=count).map(
        lambda v: np.array(v, np.uint8)
    )
    columns = ExtentColumns(draw(u64), draw(u64), draw(kinds) if count else None)
    raw = st.builds(
        RawCommand,
        st.sampled_from(list(WireProtocol)),
        st.binary(max_size=20),
        st.binary(max_size=20),
    )
    forks = st.lists(st.builds(ForkOutcomes, TEXT, st.binary(max_size=20)), max_size=3).map(tuple)
    return TrackingCommand(
        volume=draw(TEXT),
        generation=GENERATION,
        host=draw(TEXT),
        session=draw(TEXT),
        sequence=draw(I64),
        kind=draw(st.sampled_from([kind for kind in CommandKind if kind != "PROMOTE"])),
        extents=columns,
        first_at_us=draw(I64),
        last_at_us=draw(I64),
        acknowledged_position=draw(st.none() | POSITION),
        note=draw(st.none() | TEXT),
        raw=tuple(draw(st.lists(raw, max_size=3))),
        logical_block_bytes=draw(st.integers(0, 4096)),
        size_bytes=draw(POSITION),
        new_generation=draw(st.none() | TEXT),
        forks=draw(forks),
    )


def same(one: object, two: object) -> bool:
    """Return whether two dataclasses, whose fields may be arrays or bitmaps, are equal."""
    names = type(one).__dataclass_fields__
    for name in names:
        left, right = getattr(one, name), getattr(two, name)
        if isinstance(left, ExtentColumns):
            if left.pack() != right.pack():
                return False
        elif left != right:
            return False
    return type(one) is type(two)


@pytest.mark.parametrize("parted", [None, -1, 7])
def test_promotions_read_back(parted: int | None) -> None:
    command = promotion(note="n", parted_position=parted)
    assert same(decode(encode(command), TrackingCommand), command)


RECORDED = (
    "c30134a82cf2f67c44f802764831313131313131312d313131312d343131312d383131312d3131313131"
    "3131313131313118696d706f72743a6d73723a3102730030000000000000000000200000000000000010"
    "000000000000300010000000000000000200000000000001000000000000000600010030070000000000"
    "000005000000000000000900000000000000020602026e"
)


def plain_fields(command: RecordedWrites) -> dict[str, object]:
    """Return the fields that aren't columns."""
    columns = ("extents", "times_us")
    return {name: value for name, value in asdict(command).items() if name not in columns}


def test_recorded_writes_read_back_and_their_first_bytes_stay_readable() -> None:
    command = recorded("7@0+4096 5@z8192+512 9@4096+1", note="n", acknowledged_position=3)
    assert (command.first_at_us, command.last_at_us) == (5, 9)
    for content in (encode(command), bytes.fromhex(RECORDED)):
        event = decode(content, TrackingCommand)
        assert isinstance(event, RecordedWrites)
        assert event.times_us.tolist() == [7, 5, 9]
        assert event.extents.pack() == command.extents.pack()
        assert plain_fields(event) == plain_fields(command)


@pytest.mark.parametrize("times", [b"", bytes(8), bytes(20), bytes(32)])
def test_recorded_writes_need_a_time_for_each_extent(times: bytes) -> None:
    schema = schema_of("recorded_writes.v1")
    command = recorded("7@0+4096 5@8192+512 9@4096+1")
    names = ("volume", "generation", "host", "session", "sequence")
    columns = zip(("offsets", "lengths", "kinds"), command.extents.pack(), strict=True)
    out = BytesIO()
    fields = {name: getattr(command, name) for name in names} | dict(columns) | {"times": times}
    fastavro.schemaless_writer(out, schema, fields)
    with pytest.raises(BadInput, match="columns disagree"):
        decode(b"\xc3\x01" + schema_fingerprint(schema) + out.getvalue(), TrackingCommand)


@given(commands())
def test_commands_read_back(command: TrackingCommand) -> None:
    assert same(decode(encode(command), TrackingCommand), command)


@given(BLOCKS, BLOCKS, st.lists(TEXT, max_size=3))
def test_records_read_back(changed: BlockSet, zeroed: BlockSet, hosts: list[str]) -> None:
    record = LogRecord(
        volume="v",
        generation=GENERATION,
        tier=1,
        after=-1,
        through=9,
        block_size=4096,
        changed=changed,
        zeroed=zeroed,
        first_at_us=1,
        last_at_us=2,
        commands=3,
        writes=4,
        bytes_written=5,
        hosts=tuple(hosts),
        part=1,
        parts=3,
    )
    assert same(decode(encode(record), LogRecord), record)


QUESTION = LogQuestion(
    asker="b",
    run="r",
    number=3,
    partitions=(
        PartitionQuestion(partition=1),
        PartitionQuestion(partition=2, position=9, repeat_heads=True),
    ),
    at_us=7,
)
ANSWER = LogAnswer(
    asker="b",
    run="r",
    number=3,
    partition=2,
    topic="t",
    first_kept=1,
    end=12,
    position=9,
    anchor=b"x",
    epoch=1,
    through=11,
    heads=2,
    heads_digest=5,
)
EVENTS = [
    QUESTION,
    ANSWER,
    Volume(
        volume="v",
        generation=GENERATION,
        size_bytes=1 << 40,
        block_size=4096,
        partition=3,
        origin_position=-1,
        initially_zeroed=True,
        primary="file:///p",
        secondaries={"a": "file:///s"},
        created_at_us=7,
        state=VolumeState.RETIRED,
        keep_s={"day": 400 * 86400},
        shared=True,
        described_position=9,
        earlier_sizes=(EarlierSize(before_position=9, size_bytes=1 << 30),),
        cluster="c",
        history_id=GENERATION,
        epoch=2,
        topic_id="t",
        ended_sessions=("s", "t"),
        log_generation=GENERATION,
        recorded_since_us=-1,
        primary_site="b",
        primary_id=GENERATION,
        promotions=(
            Promotion(
                position=9,
                site="b",
                parted_position=5,
                former_generation=GENERATION,
                former_primary="file:///p",
                at_us=3,
                former_primary_id=GENERATION,
                former_site="a",
            ),
        ),
    ),
    VolumeHead(
        "v",
        GENERATION,
        through=9,
        sessions=(
            SessionHead(
                "s",
                "h",
                opened_position=0,
                last_position=1,
                closed_position=2,
                acknowledged_position=3,
                last_sequence=4,
                last_at_us=5,
                open_forks=("a", "b"),
            ),
        ),
        described_position=6,
        forks={"a": ForkHead(3, 7)},
        epoch=2,
    ),
    PublicationDelays(
        partition=2,
        history_id=GENERATION,
        after=-1,
        through=9,
        first_appended_us=3000,
        last_appended_us=9000,
        longest_us=7,
        shortest_us=-2,
    ),
    PublicationDelays(
        partition=2,
        history_id=GENERATION,
        after=9,
        through=12,
        first_appended_us=9000,
        last_appended_us=9000,
        longest_us=None,
        shortest_us=None,
    ),
    Watermark(partition=2, through=9, at_us=7),
    Watermark(
        partition=2,
        through=9,
        at_us=7,
        history=History(cluster="c", topic=None, epoch=2, id=GENERATION),
        anchor=b"0123456789abcdef",
    ),
    SessionBeat(session="s", host="h", position=9, acknowledged_position=8, at_us=7, epoch=2),
    CommandStatus(
        partition=0,
        position=9,
        code=StatusCode.REJECTED,
        reason="UNDECODABLE",
        text="text",
        at_us=7,
    ),
    Quarantined(
        partition=0, position=9, reason="UNDECODABLE", text="text", at_us=7, key=None, value=b"\x00"
    ),
    Quarantined(
        partition=0,
        position=9,
        reason="UNDECODABLE",
        text="text",
        at_us=7,
        key=b"k",
        value=b"v",
        key_length=100_000,
        key_sha256=bytes(32),
        value_length=9_000_000,
        value_sha256=bytes(32),
    ),
    SiteLease(
        site="a",
        run="0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10",
        folder="1f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10",
        machine="m",
        term=3,
        host="h",
        pid=7,
        started_at_us=9,
        is_over=True,
    ),
    SiteProgress(
        site="a",
        volume="v",
        generation=GENERATION,
        state=SiteState.SETTLING,
        rung=Rung.FULL,
        applied_position=9,
        consistent_position=None,
        watermark=10,
        behind_blocks=1,
        behind_bytes=4096,
        lag_s=0.5,
        blocks_copied=2,
        bytes_copied=8192,
        at_us=7,
        reason="why",
    ),
    DigestQuestion(
        question="2f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10",
        volume="v",
        generation=GENERATION,
        site="a",
        algorithm="XXH3_128",
        primary_reader="SITE",
        ranges=(ByteRange(0, 4096), ByteRange(1 << 40, 512)),
    ),
    DigestAnswer(
        question="2f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10",
        volume="v",
        site="a",
        side=Side.SECONDARY,
        by="h",
        digests=bytes(range(32)),
        applied_position=7,
        generation=GENERATION,
        history_id=GENERATION,
    ),
    VerificationReport(
        verification="2f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10",
        site="a",
        volume="v",
        generation=GENERATION,
        state=VerificationState.ABORTED,
        algorithm="XXH3_128",
        primary_reader="HOST",
        size_bytes=1 << 40,
        range_bytes=1 << 20,
        started_at_us=5,
        at_us=7,
        runs=2,
        reached_bytes=1 << 20,
        confirmed_bytes=4096,
        hashed_again=3,
        different_blocks=1,
        different=(ByteRange(4096, 4096),),
        skipped_bytes=512,
        skipped=(ByteRange(8192, 512),),
        pending=(ByteRange(12288, 4096),),
        repaired_blocks=1,
        reason="why",
    ),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_reads_back_and_has_no_other_type(event: object) -> None:
    assert decode(encode(event), type(event)) == event
    with pytest.raises(BadInput):
        decode(encode(event), Watermark if not isinstance(event, Watermark) else Volume)


@given(commands(), st.data())
def test_damaged_bytes_are_refused_or_read_as_a_command(
    command: TrackingCommand, data: st.DataObject
) -> None:
    content = bytearray(encode(command))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    for damaged in (bytes(content), data.draw(st.binary(max_size=60))):
        try:
            event = decode(damaged, TrackingCommand)
        except BadInput:
            continue
        assert isinstance(event, TrackingCommand)


@given(BLOCKS.filter(bool), st.data())
def test_the_checksum_detects_a_flipped_bit_in_the_fields_that_matter(
    changed: BlockSet, data: st.DataObject
) -> None:
    record = LogRecord(
        volume="v",
        generation=GENERATION,
        tier=0,
        after=-1,
        through=9,
        block_size=4096,
        changed=changed,
        zeroed=BlockSet(),
        first_at_us=1,
        last_at_us=2,
        commands=3,
        writes=4,
        bytes_written=5,
        hosts=("h",),
    )
    content = bytearray(encode(record))
    content[data.draw(st.integers(10, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = decode(bytes(content), LogRecord)
    except BadInput:
        return
    people = (
        "has_more_hosts",
        "first_at_us",
        "last_at_us",
        "commands",
        "writes",
        "bytes_written",
        "hosts",
    )
    assert all(
        getattr(decoded, f) == getattr(record, f)
        for f in record.__dataclass_fields__
        if f not in people
    )


def test_fingerprints_are_those_of_the_specification() -> None:
    assert schema_fingerprint("int") == (0x7275D51A3F395C8F).to_bytes(8, "little")


# Every released version of a contract with its fingerprint. Add lines, and never change one.
RELEASED = """
accepted_batch.v1      46087de904c0f4e3
archive_report.v1   76e1f4d6bbd56806
backup_report.v1    08884efee0c9e886
command_status.v1   f4bd3bc8ffc29b85
digest_answer.v1    8b1d7eb0f6d29c45
digest_question.v1  2c31c3353a11cab7
host_report.v1      0e2bfaa1f5089982
log_answer.v1       ac96153b1f2af115
log_question.v1     9770d729c8679cb3
log_record.v1       dce841b79190ab79
log_record.v2       029839f7b362003d
node_report.v1      fc1922fa6869c75b
promotion.v1        f5558a1dc18f3f89
publication_delays.v1 8e64fd3fd5bef8fe
quarantined.v1      ecccc44089df0e3b
quarantined.v2      d8d6ca35303fac77
session_beat.v1     79f4898e4ab012cd
session_beat.v2     28ce7fb9273546dd
recorded_writes.v1  34a82cf2f67c44f8
site_lease.v1       e2d6f1509cb837fa
site_lease.v2       f4846c535317927f
site_progress.v1    b981e54b947f368b
site_progress.v2    64a76d5c4a9cafaa
site_progress.v3    b501527e2b653cf5
site_progress.v4    5ac171bc919abbae
site_progress.v5    5358f58d0760d0a0
site_progress.v6    d7dd64ba255e2dd4
site_progress.v7    df04ac4f08a3ff69
tracking_command.v1 2ed6c02cfc5b0391
tracking_command.v2 f94a14090abfff97
tracking_command.v3 915375bbf6a2f0fa
tracking_command.v4 970e83fe19473df9
verification_report.v1 7769b72fc729f53c
volume.v1           4dca0d3a1b7199b1
volume.v2           708f2aeab533c553
volume.v3           47a5190c710b4d77
volume.v4           ed96db57df5689d9
volume.v5           19380a6393f7d4f8
volume.v6           56f53f945672594d
volume.v7           9e9f37fdcaba8021
volume.v8           0c307dc76608e4da
volume_head.v1      c2837e567b94252c
volume_head.v2      b295a301dc204b47
volume_head.v3      33c768f079d377d1
volume_head.v4      1d12736c33a9005e
watermark.v1        36842d27c2729176
watermark.v2        92966f7bf96dd2e3
"""


def test_released_contracts_never_change() -> None:
    fingerprints = {
        path.stem: schema_fingerprint(
            fastavro.parse_schema(json.loads(path.read_text("utf-8")))
        ).hex()
        for path in SCHEMAS.glob("*.avsc")
    }
    assert fingerprints == dict(line.split() for line in RELEASED.strip().splitlines())


def test_a_command_of_the_first_version_is_read() -> None:
    first = schema_of("tracking_command.v1")
    fields = {
        "volume": "v",
        "generation": GENERATION,
        "host": "h",
        "session": "s",
        "sequence": 7,
        "kind": "WRITES",
    }
    columns = {
        "offsets": (4096).to_bytes(8, "little"),
        "lengths": (512).to_bytes(8, "little"),
        "kinds": b"",
    }
    out = BytesIO(b"\xc3\x01" + schema_fingerprint(first))
    out.seek(0, 2)
    fastavro.schemaless_writer(out, first, fields | columns | {"first_at_us": 1, "last_at_us": 2})
    event = decode(out.getvalue(), TrackingCommand)
    assert (event.sequence, list(event.extents), event.raw, event.logical_block_bytes) == (
        7,
        [Extent(4096, 512)],
        (),
        0,
    )


def test_a_head_of_the_second_version_has_no_forks() -> None:
    before = schema_of("volume_head.v2")
    session = {
        "session": "s",
        "host": "h",
        "opened_position": 0,
        "last_position": 1,
        "closed_position": -1,
    }
    session |= {"acknowledged_position": 0, "last_sequence": 4, "last_at_us": 5}
    out = BytesIO()
    fields = {
        "volume": "v",
        "generation": GENERATION,
        "through": 9,
        "sessions": [session],
        "described_position": 2,
    }
    fastavro.schemaless_writer(out, before, fields)
    head = decode(b"\xc3\x01" + schema_fingerprint(before) + out.getvalue(), VolumeHead)
    assert head == VolumeHead(
        "v",
        GENERATION,
        through=9,
        sessions=(
            SessionHead(
                "s",
                "h",
                opened_position=0,
                last_position=1,
                closed_position=-1,
                acknowledged_position=0,
                last_sequence=4,
                last_at_us=5,
            ),
        ),
        described_position=2,
    )


def test_a_refused_event_of_the_first_version_is_whole() -> None:
    first = schema_of("quarantined.v1")
    fields = {"partition": 0, "position": 9, "reason": "UNDECODABLE", "text": "text", "at_us": 7}
    out = BytesIO()
    fastavro.schemaless_writer(out, first, fields | {"key": b"k", "value": b"v"})
    event = decode(b"\xc3\x01" + schema_fingerprint(first) + out.getvalue(), Quarantined)
    assert event == Quarantined(**fields, key=b"k", value=b"v")  # type: ignore[arg-type]


FIRST_RECORD = (
    "c301dce841b79190ab7902764831313131313131312d313131312d343131312d383131312d313131"
    "31313131313131313100011200028040420100000000000000000000003b30010002000000000100"
    "ffff030001000000ffff360100000000000000000000003b300000010100ffff01000000ffffe0d3"
    "e7c91e020406080a02026800"
)


def test_a_record_of_the_first_version_is_read() -> None:
    """Its bytes, written by the release before, with a whole container of Roaring's."""
    content = bytes.fromhex(FIRST_RECORD)
    event = decode(content, LogRecord)
    assert (event.volume, event.after, event.through, event.hosts) == ("v", -1, 9, ("h",))
    assert event.changed == BlockSet([3, *range(1 << 16, 1 << 17)])
    assert event.zeroed == BlockSet(range(1 << 16, 1 << 17))
    assert not event.has_more_hosts


def test_an_older_reader_sees_unknown_for_a_newer_kind() -> None:
    before, newest = (schema_of(f"tracking_command.v{number}") for number in (2, 4))
    resize = TrackingCommand(
        volume="v",
        generation=GENERATION,
        host="h",
        session="s",
        sequence=0,
        kind=CommandKind.RESIZE,
        extents=ExtentColumns.of([Extent(4096, 512)]),
        first_at_us=1,
        last_at_us=2,
        size_bytes=4608,
    )
    read = fastavro.schemaless_reader(BytesIO(encode(resize)[10:]), newest, before)
    assert CommandKind(read["kind"]) is CommandKind.UNKNOWN  # type: ignore[index,call-overload]
    assert read["offsets"] == (4096).to_bytes(8, "little")  # type: ignore[index,call-overload]


def test_a_description_of_the_first_version_is_read_as_active() -> None:
    first = schema_of("volume.v1")
    fields = {
        "volume": "v",
        "generation": GENERATION,
        "size_bytes": 8192,
        "block_size": 4096,
        "partition": 0,
    }
    out = BytesIO()
    fastavro.schemaless_writer(
        out,
        first,
        fields
        | {"origin_position": 4, "initially_zeroed": True, "primary": "p", "secondaries": {}},
    )
    volume = decode(b"\xc3\x01" + schema_fingerprint(first) + out.getvalue(), Volume)
    assert volume == Volume(
        volume="v",
        generation=GENERATION,
        size_bytes=8192,
        block_size=4096,
        partition=0,
        origin_position=4,
        initially_zeroed=True,
        primary="p",
    )
    assert (volume.state, volume.described_position, volume.shared) == (
        VolumeState.ACTIVE,
        -1,
        False,
    )


def schema_of(name: str) -> dict[str, object]:
    text = (SCHEMAS / f"{name}.avsc").read_text("utf-8")
    return fastavro.parse_schema(json.loads(text))  # type: ignore[return-value]


def test_a_state_that_this_release_does_not_know_is_read_as_unknown() -> None:
    """The schema has the state BEHIND, the fifth symbol; no site reports it."""
    report = next(event for event in EVENTS if isinstance(event, SiteProgress))
    encoded = bytearray(encode(report))
    at = encoded.index(GENERATION.encode()) + len(GENERATION)
    assert encoded[at] == 2 * 3  # the index of SETTLING, as Avro writes an enum's int
    encoded[at] = 2 * 4
    unknown = dict.fromkeys(("behind_blocks", "behind_bytes", "lag_s"))
    expected = replace(report, state=SiteState.UNKNOWN, **unknown)  # type: ignore[arg-type]
    assert decode(bytes(encoded), SiteProgress) == expected


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("fields", "is_known"),
    [
        ({"state": "CONSISTENT"}, True),
        ({"state": "SYNCING"}, True),
        ({"state": "SYNCING", "applied_position": None}, False),  # the first copy
        ({"state": "CONSISTENT", "watermark": None}, False),
        ({"state": "STOPPED"}, False),
        ({"state": "WAITING"}, False),
    ],
)
def test_an_older_report_that_says_0_for_what_it_does_not_know_is_read_as_unknown(
    version: str, fields: dict[str, object], is_known: bool
) -> None:
    report = {
        "site": "a",
        "volume": "v",
        "generation": GENERATION,
        "applied_position": 4,
        "watermark": 9,
        "behind_blocks": 0,
        "behind_bytes": 0,
        "lag_s": 0.0,
        "blocks_copied": 0,
        "bytes_copied": 0,
        "at_us": 7,
    }
    read = decode(encode_by(f"site_progress.{version}", report | fields), SiteProgress)
    expected = (0, 0, 0.0) if is_known else (None, None, None)
    assert (read.behind_blocks, read.behind_bytes, read.lag_s) == expected


PROGRESS_GOLDEN = (
    "c301b501527e2b653cf5026102764831313131313131312d313131312d343131312d383131312d3131313131"
    "313131313131310c020866756c6c0212000214000000048080010e0206776879"
)
"""A report of a secondary that is stopped, by site_progress.v3."""
PROGRESS_GOLDEN_V4 = (
    "c3015ac171bc919abbae026102764831313131313131312d313131312d343131312d383131312d3131313131"
    "313131313131310c020866756c6c0212000214000000048080010e02067768790206616263"
)


def test_a_report_with_unknown_numbers_is_written_as_before() -> None:
    report = next(event for event in EVENTS if isinstance(event, SiteProgress))
    unknown = dict.fromkeys(("behind_blocks", "behind_bytes", "lag_s"))
    stopped = replace(report, state=SiteState.STOPPED, **unknown)  # type: ignore[arg-type]
    assert decode(bytes.fromhex(PROGRESS_GOLDEN), SiteProgress) == stopped
    named = replace(stopped, secondary_id="abc")
    assert decode(bytes.fromhex(PROGRESS_GOLDEN_V4), SiteProgress) == named


LEASE_GOLDEN = (
    "c301e2d6f1509cb837fa02614830663163316433362d336130662d346435652d396335352d306335613763386139"
    "6431304831663163316433362d336130662d346435652d396335352d306335613763386139643130026d0602680e"
    "1201"
)
"""A lease by site_lease.v1."""
LEASE_GOLDEN_V2 = (
    "c301f4846c535317927f"
    + LEASE_GOLDEN.removeprefix("c301e2d6f1509cb837fa")
    + "02000000000000f83f"
)


def test_a_lease_is_written_as_before_and_that_of_the_release_before_is_read() -> None:
    lease = next(event for event in EVENTS if isinstance(event, SiteLease))
    assert decode(bytes.fromhex(LEASE_GOLDEN), SiteLease) == lease
    caught_up = replace(lease, caught_up_age_s=1.5)
    assert encode(caught_up).hex() == LEASE_GOLDEN_V2
    assert decode(encode(caught_up), SiteLease) == caught_up


@pytest.mark.parametrize(
    ("event", "golden"),
    [
        (QUESTION, "c3019770d729c8679cb3026202720604020100041201000e"),
        (ANSWER, "c301ac96153b1f2af1150262027206040202740218120202780216040a"),
    ],
)
def test_questions_and_answers_have_the_bytes_of_their_first_release(
    event: object, golden: str
) -> None:
    assert encode(event).hex() == golden
    assert decode(bytes.fromhex(golden), object) == event


def encode_by(name: str, fields: dict[str, object]) -> bytes:
    """Return an event as a release with that newest schema encodes it."""
    schema, out = schema_of(name), BytesIO()
    fastavro.schemaless_writer(out, schema, fields)
    return b"\xc3\x01" + schema_fingerprint(schema) + out.getvalue()


def test_rows_of_the_versions_before_histories_belong_to_no_history() -> None:
    watermark = encode_by("watermark.v1", {"partition": 2, "through": 9, "at_us": 7})
    assert decode(watermark, Watermark) == Watermark(partition=2, through=9, at_us=7)
    beat = {"session": "s", "host": "h", "position": 9, "acknowledged_position": 8, "at_us": 7}
    assert decode(encode_by("session_beat.v1", beat), SessionBeat) == SessionBeat(
        session="s", host="h", position=9, acknowledged_position=8, at_us=7
    )
    head = {"volume": "v", "generation": GENERATION, "through": 9, "sessions": []}
    assert decode(encode_by("volume_head.v3", head), VolumeHead) == VolumeHead(
        "v", GENERATION, through=9
    )
    volume = {
        "volume": "v",
        "generation": GENERATION,
        "size_bytes": 8192,
        "block_size": 4096,
        "partition": 0,
        "origin_position": 4,
        "initially_zeroed": True,
        "primary": "p",
        "secondaries": {},
    }
    assert decode(encode_by("volume.v2", volume), Volume) == Volume(**volume)  # type: ignore[arg-type]
    volume |= {"cluster": "c", "history_id": GENERATION, "epoch": 2, "topic_id": "t"}
    assert decode(encode_by("volume.v3", volume), Volume) == Volume(**volume)  # type: ignore[arg-type]
    volume |= {"primary_site": "s", "primary_id": GENERATION}
    assert decode(encode_by("volume.v5", volume), Volume) == Volume(**volume)  # type: ignore[arg-type]


def test_the_bytes_of_a_volume_of_a_group_never_change() -> None:
    golden = (
        "c30156f53f945672594d02764831313131313131312d313131312d343131312d"
        "383131312d313131313131313131313131808001804000080102700000020000"
        "01000000000000000000000002046462"
    )
    golden_of_newest = golden.replace("56f53f945672594d", "9e9f37fdcaba8021") + "00"
    volume = Volume(
        volume="v",
        generation=GENERATION,
        size_bytes=8192,
        block_size=4096,
        partition=0,
        origin_position=4,
        initially_zeroed=True,
        primary="p",
        group="db",
    )
    assert decode(bytes.fromhex(golden), Volume) == volume
    assert encode(volume).hex() == golden_of_newest
    assert decode(encode(volume), Volume).recorded_since_us is None
    # What only the newest contract can say is written by it, and all else as before.
    authenticated = replace(volume, authenticated_after=5)
    of_newest = golden_of_newest.replace("9e9f37fdcaba8021", "0c307dc76608e4da") + "020a"
    assert encode(authenticated).hex() == of_newest
    assert decode(encode(authenticated), Volume) == authenticated
    assert decode(bytes.fromhex(golden), Volume) == volume


def test_the_bytes_of_a_watermark_with_a_history_never_change() -> None:
    golden = (
        "c30192966f7bf96dd2e304120e02020263020274044831313131313131312d31"
        "3131312d343131312d383131312d3131313131313131313131310220cef173bd"
        "05596d20b9fb59f408a0d92d"
    )
    watermark = Watermark(
        partition=2,
        through=9,
        at_us=7,
        history=History(cluster="c", topic="t", epoch=2, id=GENERATION),
        anchor=anchor_of(b"v", b"command"),
    )
    assert encode(watermark).hex() == golden
    assert decode(bytes.fromhex(golden), Watermark) == watermark


VERIFICATION_GOLDEN = {
    DigestQuestion: (
        "c3012c31c3353a11cab74832663163316433362d336130662d346435652d396335352d3063356137633861396431"
        "3002764831313131313131312d313131312d343131312d383131312d313131313131313131313131026110585848"
        "335f3132380853495445040080808080804000048040800800"
    ),
    DigestAnswer: (
        "c3018b1d7eb0f6d29c454832663163316433362d336130662d346435652d396335352d3063356137633861396431"
        "30027602610202680240000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f00020e02"
        "4831313131313131312d313131312d343131312d383131312d313131313131313131313131024831313131313131"
        "312d313131312d343131312d383131312d313131313131313131313131"
    ),
    VerificationReport: (
        "c3017769b72fc729f53c4832663163316433362d336130662d346435652d396335352d3063356137633861396431"
        "30026102764831313131313131312d313131312d343131312d383131312d31313131313131313131313104105858"
        "48335f31323808484f5354808080808040808080010a0e0480808001804006020280400002804000800802808001"
        "00028008000280c0010002804000020206776879"
    ),
}
"""The events of a verification, by their first contracts."""


@pytest.mark.parametrize("kind", VERIFICATION_GOLDEN, ids=lambda kind: kind.__name__)
def test_the_events_of_a_verification_are_written_and_read_as_in_their_first_release(
    kind: type,
) -> None:
    event = next(event for event in EVENTS if isinstance(event, kind))
    assert encode(event).hex() == VERIFICATION_GOLDEN[kind]
    assert decode(bytes.fromhex(VERIFICATION_GOLDEN[kind]), kind) == event
