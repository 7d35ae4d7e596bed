"""Events as Avro bytes, by the contracts in schemas/. The one module that imports fastavro.

An event has Avro's single-object encoding (Avro 1.11, "Single-object encoding"): 0xC3 0x01, the
CRC-64-AVRO fingerprint of the writer's schema (8 bytes, little-endian), and the record. Every
version of a contract stays in schemas/ as `name.vN.avsc`, so that the bytes of every release stay
readable. The newest version is written.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Any, Final, TypeVar, cast

import fastavro
import numpy as np
from fastavro.schema import fingerprint, to_parsing_canonical_form

from mirrorlog.domain.archive_reports import ArchivedPartition, ArchiveReport
from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.bitmaps import BlockSet, PackedBlocks, pack, unpack
from mirrorlog.domain.commands import (
    AcceptedBatch,
    CommandKind,
    CommandStatus,
    ForkOutcomes,
    Quarantined,
    RawCommand,
    StatusCode,
    TrackingCommand,
    WireProtocol,
)
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.histories import History
from mirrorlog.domain.log_questions import LogAnswer, LogQuestion, PartitionQuestion
from mirrorlog.domain.promotions import Promotion, PromotionCommand
from mirrorlog.domain.recorded_writes import I64, RecordedWrites, unpack_times
from mirrorlog.domain.reports import (
    ForkReport,
    HostReport,
    HostState,
    NodePartitionState,
    NodeReport,
    PartitionReport,
)
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState, is_behind_known
from mirrorlog.domain.verifications import (
    ByteRange,
    DigestAnswer,
    DigestQuestion,
    Side,
    VerificationReport,
    VerificationState,
)
from mirrorlog.domain.volumes import EarlierSize, Volume, VolumeState
from mirrorlog.errors import BadInput, in_words, name_in_words
from mirrorlog.tracking_log.heads import ForkHead, SessionBeat, SessionHead, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import record_key
from mirrorlog.tracking_log.publication_delays import PublicationDelays
from mirrorlog.tracking_log.record_parts import PackedRecord
from mirrorlog.tracking_log.records import LogRecord

Event = TypeVar("Event")
Fields = dict[str, Any]

_MARKER: Final = b"\xc3\x01"
_HEADER_BYTES: Final = 10


@dataclass(frozen=True, slots=True)
class _Contract:
    """The mapping of a dataclass to an Avro record and back.

    name: of the schema files. fits_before: whether an event says nothing that the version before
    the newest lacks. Then it is written in that one, which older releases read. None: never.
    """

    name: str
    to_fields: Callable[[Any], Fields]
    from_fields: Callable[[Fields], Any]
    fits_before: Callable[[Any], bool] | None = None


@dataclass(frozen=True, slots=True)
class _Reader:
    """The decoder of the events with one header."""

    contract: _Contract
    event_type: type
    writer_schema: Any


@dataclass(frozen=True, slots=True)
class _Registry:
    """The contracts.

    writers: by type, header and newest schema. before: the same of the version before the newest.
    readers: by header.
    """

    writers: Mapping[type, tuple[bytes, Any, _Contract]]
    before: Mapping[type, tuple[bytes, Any, _Contract]]
    readers: Mapping[bytes, _Reader]


def encode(event: object) -> bytes:
    """Return the single-object encoding of an event by its newest contract.

    A description of a volume that the contract before it can hold is written by that one.
    """
    header, schema, contract = _registry().writers[type(event)]
    if contract.fits_before is not None and contract.fits_before(event):
        header, schema, _ = _registry().before[type(event)]
    out = BytesIO()
    out.write(header)
    fastavro.schemaless_writer(out, schema, contract.to_fields(event))
    return out.getvalue()


def decode(data: bytes, expected: type[Event]) -> Event:
    """Return the event in `data`.

    expected: the type of the event; `object` accepts any. Raise BadInput, with the reason, if the
    event has another type or the bytes are no event.
    """
    reader = _registry().readers.get(bytes(data[:_HEADER_BYTES]))
    if reader is None:
        raise BadInput(
            _unknown_header(data),
            next="Send Avro single-object encoding by a schema of this release or older.",
        )
    if not issubclass(reader.event_type, expected):
        raise BadInput(
            f"it is a {name_in_words(reader.event_type)}, not a {name_in_words(expected)}"
        )
    newest = _registry().writers[reader.event_type][1]
    source = BytesIO(data)
    source.seek(_HEADER_BYTES)
    try:
        # Given a second schema, fastavro compares both each time. So pass it only if they differ.
        other = None if newest is reader.writer_schema else newest
        record = cast(Fields, fastavro.schemaless_reader(source, reader.writer_schema, other))
        if source.tell() != len(data):
            raise ValueError(f"{len(data) - source.tell()} bytes follow the record")
        return cast(Event, reader.contract.from_fields(record))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"the {name_in_words(reader.event_type)} is damaged: {in_words(error)}"[:300]
        ) from error


def decode_record_header(data: bytes) -> LogRecord:
    """Return a log record with empty bitmaps. Its bitmaps aren't looked at, nor its checksum.

    Raise BadInput if the bytes are no log record.
    """
    reader = _registry().readers.get(bytes(data[:_HEADER_BYTES]))
    if reader is None or reader.event_type not in (LogRecord, PackedRecord):
        raise BadInput(_unknown_header(data) if reader is None else "it is no log record")
    source = BytesIO(data)
    source.seek(_HEADER_BYTES)
    try:
        fields = cast(
            Fields, fastavro.schemaless_reader(source, reader.writer_schema, _header_schema())
        )
        return LogRecord(
            **fields | {"hosts": tuple(fields["hosts"])}, changed=BlockSet(), zeroed=BlockSet()
        )
    except Exception as error:
        raise BadInput(f"the log record is damaged: {in_words(error)}"[:300]) from error


@cache
def _header_schema() -> Any:
    """Return the newest schema of log records without what LogRecord's header lacks."""
    _, schema, _ = _registry().writers[LogRecord]
    left_out = ("changed", "zeroed", "changed_runs", "zeroed_runs", "crc32")
    kept = [field for field in schema["fields"] if field["name"] not in left_out]
    return fastavro.parse_schema(
        {"type": "record", "name": schema["name"], "fields": kept}, _write_hint=False
    )


def newest_contract(event_type: type) -> tuple[bytes, Sequence[Fields]]:
    """Return the header of every new event of that type, and the fields of its newest schema."""
    header, schema, _ = _registry().writers[event_type]
    return header, cast(Sequence[Fields], schema["fields"])


def schema_with_header(header: bytes) -> tuple[str, str]:
    """Return the full name of the record, and the schema as JSON, that events with `header` have.

    Raise BadInput for a header of no contract.
    """
    reader = _registry().readers.get(bytes(header))
    if reader is None:
        raise BadInput(_unknown_header(header))
    schema = fastavro.schema.expand_schema(reader.writer_schema)
    return str(reader.writer_schema["name"]), json.dumps(_bare(schema))


def header_of_schema(text: str) -> bytes | None:
    """Return the header of events by a schema in JSON; None if it is none of the contracts."""
    try:
        schema = fastavro.parse_schema(json.loads(text))
        header = _MARKER + schema_fingerprint(schema)
    except Exception:  # noqa: BLE001 - whatever others have registered, it is no contract
        return None
    return header if header in _registry().readers else None


def _bare(schema: Any) -> Any:
    """Return a schema without what fastavro adds to it."""
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if not key.startswith("__")}
    return [_bare(part) for part in schema] if isinstance(schema, list) else schema


def _unknown_header(data: bytes) -> str:
    if data[:2] != _MARKER:
        return f"{len(data)} bytes don't begin with Avro's single-object marker"
    return f"schema fingerprint {data[2:_HEADER_BYTES].hex()} is unknown"


@cache
def _registry() -> _Registry:
    """Load schemas/ once. The version with the highest number of each contract is the newest."""
    writers: dict[type, tuple[bytes, Any, _Contract]] = {}
    before: dict[type, tuple[bytes, Any, _Contract]] = {}
    readers: dict[bytes, _Reader] = {}
    names = sorted(
        entry.name for entry in files("mirrorlog.schemas").iterdir() if entry.name.endswith(".avsc")
    )
    for event_type, contract in _contracts().items():
        versions = [name for name in names if name.split(".")[0] == contract.name]
        for name in sorted(versions, key=lambda name: int(name.split(".")[1].removeprefix("v"))):
            schema = fastavro.parse_schema(
                json.loads(files("mirrorlog.schemas").joinpath(name).read_text("utf-8"))
            )
            header = _MARKER + schema_fingerprint(schema)
            readers.setdefault(header, _Reader(contract, event_type, schema))
            if event_type in writers:
                before[event_type] = writers[event_type]
            writers[event_type] = (header, schema, contract)
    return _Registry(writers, before, readers)


def schema_fingerprint(schema: Any) -> bytes:
    """Return the CRC-64-AVRO of a schema's parsing canonical form, 8 bytes, little-endian.

    Avro 1.11, "Schema Fingerprints".
    """
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


def _plain(event: Any) -> Fields:
    """Return the fields of a dataclass, without those of its members."""
    event_type: Any = type(event)
    return {name: getattr(event, name) for name in _field_names(event_type)}


@cache
def _field_names(event_type: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(event_type))


def _contracts() -> Mapping[type, _Contract]:
    return {
        TrackingCommand: _Contract("tracking_command", _command_fields, _command),
        RecordedWrites: _Contract("recorded_writes", _recorded_fields, _recorded),
        PromotionCommand: _Contract("promotion", _promotion_fields, _promotion),
        LogRecord: _Contract("log_record", _record_fields, _record),
        PackedRecord: _Contract("log_record", _packed_fields, _record),
        VolumeHead: _Contract("volume_head", _head_fields, _head),
        SessionBeat: _Contract("session_beat", _plain, lambda f: SessionBeat(**f)),
        Watermark: _Contract("watermark", _watermark_fields, _watermark),
        PublicationDelays: _Contract(
            "publication_delays", _plain, lambda f: PublicationDelays(**f)
        ),
        Volume: _Contract("volume", _volume_fields, _volume, lambda v: not v.is_authenticated),
        CommandStatus: _Contract(
            "command_status", _plain, lambda f: CommandStatus(**f | {"code": StatusCode(f["code"])})
        ),
        AcceptedBatch: _Contract("accepted_batch", _batch_fields, _batch),
        Quarantined: _Contract("quarantined", _plain, lambda f: Quarantined(**f)),
        SiteProgress: _Contract("site_progress", _plain, _progress),
        SiteLease: _Contract("site_lease", _plain, lambda f: SiteLease(**f)),
        HostReport: _Contract("host_report", _host_report_fields, _host_report),
        LogQuestion: _Contract("log_question", _partitioned, _log_question),
        LogAnswer: _Contract("log_answer", _plain, lambda f: LogAnswer(**f)),
        NodeReport: _Contract("node_report", _partitioned, _node_report),
        ArchiveReport: _Contract("archive_report", _partitioned, _archive_report),
        BackupReport: _Contract("backup_report", _plain, lambda f: BackupReport(**f)),
        DigestQuestion: _Contract("digest_question", _question_fields, _question),
        DigestAnswer: _Contract(
            "digest_answer", _plain, lambda f: DigestAnswer(**f | {"side": Side(f["side"])})
        ),
        VerificationReport: _Contract(
            "verification_report", _verification_fields, _verification_report
        ),
    }


def _command_fields(command: TrackingCommand) -> Fields:
    columns = dict(zip(("offsets", "lengths", "kinds"), command.extents.pack(), strict=True))
    lists = {
        "raw": [_plain(raw) for raw in command.raw],
        "forks": [_plain(fork) for fork in command.forks],
    }
    return (
        {name: value for name, value in _plain(command).items() if name != "extents"}
        | columns
        | lists
    )


def _command(record: Fields) -> TrackingCommand:
    extents = ExtentColumns.unpack(
        record.pop("offsets"), record.pop("lengths"), record.pop("kinds")
    )
    raw = tuple(
        RawCommand(WireProtocol(item["protocol"]), item["command"], item["data"])
        for item in record["raw"]
    )
    forks = tuple(ForkOutcomes(**item) for item in record["forks"])
    typed = {"kind": CommandKind(record["kind"]), "extents": extents, "raw": raw, "forks": forks}
    return TrackingCommand(**record | typed)


_RECORDED_FIELDS: Final = (
    "volume",
    "generation",
    "host",
    "session",
    "sequence",
    "acknowledged_position",
    "note",
)


def _recorded_fields(command: RecordedWrites) -> Fields:
    columns = dict(zip(("offsets", "lengths", "kinds"), command.extents.pack(), strict=True))
    named = {name: getattr(command, name) for name in _RECORDED_FIELDS}
    return named | columns | {"times": command.times_us.astype(I64).tobytes()}


def _recorded(record: Fields) -> RecordedWrites:
    extents = ExtentColumns.unpack(
        record.pop("offsets"), record.pop("lengths"), record.pop("kinds")
    )
    times_us = unpack_times(record.pop("times"), extents)
    return RecordedWrites(
        **record,
        kind=CommandKind.WRITES,
        extents=extents,
        first_at_us=int(times_us.min()),
        last_at_us=int(times_us.max()),
        times_us=times_us,
    )


_PROMOTION_FIELDS: Final = (
    "volume",
    "generation",
    "host",
    "session",
    "new_generation",
    "site",
    "primary",
    "primary_id",
    "parted_position",
    "note",
)


def _promotion_fields(command: PromotionCommand) -> Fields:
    fields_by_name = {name: getattr(command, name) for name in _PROMOTION_FIELDS}
    return fields_by_name | {"at_us": command.last_at_us}


def _promotion(record: Fields) -> PromotionCommand:
    at_us = record.pop("at_us")
    return PromotionCommand(
        **record,
        sequence=-1,
        kind=CommandKind.PROMOTE,
        extents=ExtentColumns.of(()),
        first_at_us=at_us,
        last_at_us=at_us,
    )


def _record_fields(record: LogRecord) -> Fields:
    return _packed_fields(PackedRecord(record, pack(record.changed), pack(record.zeroed)))


def _packed_fields(packed: PackedRecord) -> Fields:
    return _plain(packed.header) | {
        "changed": packed.changed.bitmap,
        "changed_runs": packed.changed.runs,
        "zeroed": packed.zeroed.bitmap,
        "zeroed_runs": packed.zeroed.runs,
        "crc32": _record_crc32(packed.header, packed.changed, packed.zeroed),
    }


def _record(fields: Fields) -> LogRecord:
    # fastavro gives the default of a bytes field as a str.
    changed = PackedBlocks(fields["changed"], fields.pop("changed_runs") or b"")
    zeroed = PackedBlocks(fields["zeroed"], fields.pop("zeroed_runs") or b"")
    expected = fields.pop("crc32")
    bitmaps = {"changed": unpack(*changed), "zeroed": unpack(*zeroed)}
    record = LogRecord(**fields | bitmaps | {"hosts": tuple(fields["hosts"])})
    if _record_crc32(record, changed, zeroed) != expected:
        raise BadInput(
            "a log record fails its checksum",
            where=f"volume {record.volume}, positions ({record.after}, {record.through}]",
            next="Rebuild the log from the commands.",
        )
    return record


def _record_crc32(record: LogRecord, changed: PackedBlocks, zeroed: PackedBlocks) -> int:
    """Return the checksum of the fields on which a reader acts.

    They are the key, the number of parts, the block size, the generation and both sets of blocks.
    The fields for people aren't part of it.
    """
    header = (
        record_key(record)
        + struct.pack(">HQ", record.parts, record.block_size)
        + record.generation.encode()
    )
    checksum = zlib.crc32(header)
    for content in (changed.bitmap, zeroed.bitmap, changed.runs, zeroed.runs):
        checksum = zlib.crc32(content, checksum)
    return checksum


def _head_fields(head: VolumeHead) -> Fields:
    forks = {site: _plain(fork) for site, fork in sorted(head.forks.items())}
    return _plain(head) | {
        "sessions": [_plain(session) for session in head.sessions],
        "forks": forks,
    }


def _head(record: Fields) -> VolumeHead:
    sessions = tuple(
        SessionHead(**item | {"open_forks": tuple(item["open_forks"])})
        for item in record["sessions"]
    )
    forks = {site: ForkHead(**item) for site, item in record["forks"].items()}
    return VolumeHead(**record | {"sessions": sessions, "forks": forks})


def _watermark_fields(watermark: Watermark) -> Fields:
    history = watermark.history
    return _plain(watermark) | {"history": None if history is None else _plain(history)}


def _watermark(record: Fields) -> Watermark:
    history = record["history"]
    return Watermark(**record | {"history": None if history is None else History(**history)})


def _volume_fields(volume: Volume) -> Fields:
    return _plain(volume) | {
        "earlier_sizes": [_plain(size) for size in volume.earlier_sizes],
        "ended_sessions": list(volume.ended_sessions),
        "promotions": [_plain(promotion) for promotion in volume.promotions],
    }


def _volume(record: Fields) -> Volume:
    sizes = tuple(EarlierSize(**item) for item in record["earlier_sizes"])
    ended_sessions = tuple(record["ended_sessions"])
    return Volume(
        **record
        | {
            "state": VolumeState(record["state"]),
            "earlier_sizes": sizes,
            "ended_sessions": ended_sessions,
            "promotions": tuple(Promotion(**item) for item in record["promotions"]),
        }
    )


def _batch_fields(batch: AcceptedBatch) -> Fields:
    columns = {"positions": batch.positions, "sequences": batch.sequences}
    return _plain(batch) | {name: column.astype(I64).tobytes() for name, column in columns.items()}


def _batch(record: Fields) -> AcceptedBatch:
    positions, sequences = (
        np.frombuffer(record["positions"], I64),
        np.frombuffer(record["sequences"], I64),
    )
    if len(positions) != len(sequences):
        raise ValueError(
            f"columns disagree: {len(positions)} positions, {len(sequences)} sequences"
        )
    return AcceptedBatch(**record | {"positions": positions, "sequences": sequences})


def _progress(record: Fields) -> SiteProgress:
    rung, state = record["rung"], record["state"]
    known: Fields = {
        "state": SiteState(state) if state in SiteState.__members__ else SiteState.UNKNOWN,
        "rung": None if rung is None else Rung(rung),
    }
    if not is_behind_known(
        known["state"],
        applied_position=record["applied_position"],
        watermark=record["watermark"],
    ):
        # Sites that write older versions of the contract report 0 for what they don't know.
        known |= dict.fromkeys(("behind_blocks", "behind_bytes", "lag_s"))
    return SiteProgress(**record | known)


def _host_report_fields(report: HostReport) -> Fields:
    return _plain(report) | {"forks": [_plain(fork) for fork in report.forks]}


def _host_report(record: Fields) -> HostReport:
    forks = tuple(ForkReport(**fork) for fork in record["forks"])
    return HostReport(**record | {"state": HostState(record["state"]), "forks": forks})


def _partitioned(event: LogQuestion | NodeReport | ArchiveReport) -> Fields:
    return _plain(event) | {"partitions": [_plain(part) for part in event.partitions]}


def _log_question(record: Fields) -> LogQuestion:
    partitions = tuple(PartitionQuestion(**part) for part in record["partitions"])
    return LogQuestion(**record | {"partitions": partitions})


def _node_report(record: Fields) -> NodeReport:
    partitions = tuple(
        PartitionReport(**part | {"state": NodePartitionState(part["state"])})
        for part in record["partitions"]
    )
    return NodeReport(**record | {"partitions": partitions})


def _archive_report(record: Fields) -> ArchiveReport:
    partitions = tuple(ArchivedPartition(**part) for part in record["partitions"])
    return ArchiveReport(**record | {"partitions": partitions})


_RANGES = ("different", "skipped", "pending")


def _question_fields(question: DigestQuestion) -> Fields:
    return _plain(question) | _range_fields("", question.ranges)


def _question(record: Fields) -> DigestQuestion:
    ranges = _ranges(record, "")
    return DigestQuestion(**record, ranges=ranges)


def _verification_fields(report: VerificationReport) -> Fields:
    fields = _plain(report)
    for name in _RANGES:
        fields |= _range_fields(f"{name}_", fields.pop(name))
    return fields


def _verification_report(record: Fields) -> VerificationReport:
    lists = {name: _ranges(record, f"{name}_") for name in _RANGES}
    return VerificationReport(**record | lists | {"state": VerificationState(record["state"])})


def _range_fields(prefix: str, ranges: Sequence[ByteRange]) -> Fields:
    return {
        f"{prefix}offsets": [extent.offset for extent in ranges],
        f"{prefix}lengths": [extent.length for extent in ranges],
    }


def _ranges(record: Fields, prefix: str) -> tuple[ByteRange, ...]:
    """Take the two columns of a list of ranges out of a record."""
    offsets, lengths = record.pop(f"{prefix}offsets"), record.pop(f"{prefix}lengths")
    return tuple(ByteRange(offset, length) for offset, length in zip(offsets, lengths, strict=True))
