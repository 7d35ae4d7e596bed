"""Every decoder of bytes from outside, seeds that its encoder made, and how seeds are damaged.

A decoder may return a value or raise one of mirrorlog's own errors (for those whose contract says
so, a ValueError). Nothing else, and never more than a bounded amount of memory.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import fastavro.utils
from notation import command as command_of
from notation import volume

from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.adapters.sealed_json import sealed_line, unsealed
from mirrorlog.archive.manifests import decode_manifest
from mirrorlog.archive.merges import decode_merge
from mirrorlog.broker_record import parse_record
from mirrorlog.changed.http import error_of
from mirrorlog.changed.points import parse_point
from mirrorlog.codec.command_columns import decode_columns
from mirrorlog.codec.events import decode, decode_record_header, encode, schema_fingerprint
from mirrorlog.codec.status_batches import read_statuses
from mirrorlog.consumers.backup.repository.manifests import decode_point
from mirrorlog.consumers.journal.group_commit import GroupCommit, decode_commit, encode_commit
from mirrorlog.consumers.journal.journal_format import encode_close, read_journal
from mirrorlog.consumers.resync.copy_rate import parse_rates
from mirrorlog.consumers.state.state_files import decode_state
from mirrorlog.consumers.verify.schedule import parse_schedule
from mirrorlog.domain.bitmaps import BlockSet, pack, unpack
from mirrorlog.domain.commands import WireProtocol
from mirrorlog.domain.snapshots import LiveExport, describe, parse_description
from mirrorlog.domain.volumes import check_volume_name
from mirrorlog.domain.wire import interpret
from mirrorlog.errors import MirrorlogError
from mirrorlog.producers.durable.activity_format import read_log
from mirrorlog.producers.importers.maps import (
    extent_list_source,
    nbdinfo_source,
    qemu_map_source,
    rbd_diff_source,
)
from mirrorlog.producers.traces.opening import open_trace
from mirrorlog.tracking_log.keys import read_record_key
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.command_chain import CommandEntry, ProvedCommand
from mirrorlog.transparency.ed25519_keys import parse_vkey
from mirrorlog.transparency.notes import parse_note
from mirrorlog.transparency.proof_files import InclusionFile
from mirrorlog.transparency.tiles import bundle_bytes, read_bundle
from mirrorlog.units import parse_duration_s, parse_size

SCHEMAS = Path(__file__).parents[1] / "schemas"
UUID_1 = "11111111-1111-4111-8111-111111111111"
Seeds = Sequence[bytes]


@dataclass(frozen=True)
class Decoder:
    """One decoder. seeds: what it reads. errors: what it may raise."""

    name: str
    seeds: Callable[[], Seeds]
    run: Callable[[bytes, Path], object]
    errors: tuple[type[BaseException], ...] = (MirrorlogError,)


@cache
def events() -> Seeds:
    """Return events with random fields, by every version of every contract."""
    random.seed(15)  # fastavro takes its numbers from there
    seeds = []
    for path in sorted(SCHEMAS.glob("*.avsc")):
        schema: Any = fastavro.schema.load_schema(path)
        for _ in range(2):
            out = BytesIO()
            fastavro.schemaless_writer(out, schema, fastavro.utils.generate_one(schema))
            seeds.append(b"\xc3\x01" + schema_fingerprint(schema) + out.getvalue())
    return [*seeds, encode(command_of("0+4096 z8192+4096")), encode(volume())]


def commands() -> Seeds:
    """Return commands of every version, and of each kind of contract that one may have."""
    kinds = ("tracking_command", "recorded_writes", "promotion")
    headers = {
        schema_fingerprint(fastavro.schema.load_schema(path))
        for path in SCHEMAS.glob("*.avsc")
        if path.name.startswith(kinds)
    }
    return [event for event in events() if event[2:10] in headers]


def bitmaps() -> Seeds:
    sets = [BlockSet(range(0, 100_000, 7)), BlockSet([1, 2**40]), BlockSet(range(200_000))]
    return [struct.pack("<I", len(packed.bitmap)) + b"".join(packed) for packed in map(pack, sets)]


def unpack_both(data: bytes, _: Path) -> object:
    (size,) = struct.unpack("<I", data[:4].ljust(4, b"\0"))
    return len(unpack(data[4 : 4 + size % (1 << 20)], data[4 + size % (1 << 20) :]))


def documents() -> Seeds:
    """Return documents of the small files, with checksums that are right."""
    commit = GroupCommit("group", UUID_1, {"volume": UUID_1})
    broker = b'{"version": 1, "port": 1, "controller_port": 2, "pid": 3, "created_s": 4.5}'
    error = b'{"message_type": "error", "code": "BadUse", "what": "w", "where": "", "next": "n"}'
    forms = ("mirrorlog.point", "mirrorlog.archive_manifest", "mirrorlog.secondary_state")
    sealed = [sealed_line({"format": form, "version": 1, "files": []}) for form in forms]
    return [*sealed, encode_commit(commit), broker, error, b"[" * 100_000, b"null", b"1" * 5000]


def read_documents(data: bytes, _: Path) -> None:
    """Give a document to each of its readers, with a right checksum, too."""
    text = data.decode(errors="replace")
    for content in (data, sealed_again(data)):
        for reader in (
            unsealed,
            lambda content: decode_state(content, "v", "x"),
            decode_commit,
            lambda content: decode_manifest(content, "x"),
            lambda content: decode_merge(content, "x"),
            lambda content: decode_point(content, "x"),
            lambda content: error_of(500, content, "x"),
            lambda _: parse_record(text, "x"),
        ):
            try:
                reader(content)
            except MirrorlogError:
                pass
            except ValueError:
                assert reader is unsealed


def sealed_again(data: bytes) -> bytes:
    """Return the document with the checksum that it should have, if it is one."""
    try:
        document = json.loads(data)
        document.pop("crc32", None)
        return sealed_line(document)
    except (ValueError, AttributeError, RecursionError):
        return data


def proofs() -> Seeds:
    note = "origin\n3\n" + "A" * 43 + "=\n\n\u2014 key AAAAAAAA\n"
    proof = f"c2sp.org/tlog-proof@v1\nextra AAAA\nindex 1\n{'A' * 43}=\n\n{note}"
    return [note.encode(), proof.encode(), b"key+00000000+" + b"A" * 44, bundle_bytes([b"a", b""])]


def read_proofs(data: bytes, _: Path) -> None:
    text = data.decode(errors="replace")
    for reader in (
        lambda: parse_note(text, where="x"),
        lambda: TreeHead.parse(text, where="x"),
        lambda: InclusionFile.parse(text, where="x"),
        lambda: parse_vkey(text, where="x"),
        lambda: CommandEntry.parse(data, where="x"),
        lambda: ProvedCommand.parse(data, where="x"),
        lambda: list(read_bundle(data, where="x")),
    ):
        with suppress(MirrorlogError):
            reader()


def texts() -> Seeds:
    return [
        *(b"2h ago", b"2026-01-01T00:00:00Z", b"123", b"origin", b"now", b"@5", b"yesterday"),
        *(b"4KiB", b"1.5GB", b"10m", b"08:00-18:00=auto:50MB/s,else=max", b"sun 02:00"),
        *(b"nbds://h:1/v?tls-hostname=x", b"nbd+unix:///v?socket=/s", b"vol-1", b"../../etc"),
        describe(LiveExport(volume="v", session="s")).encode(),
    ]


def read_texts(data: bytes, _: Path) -> None:
    text = data.decode(errors="replace")
    for reader in (
        lambda: parse_point(text, 10**15),
        lambda: parse_size(text),
        lambda: parse_duration_s(text),
        lambda: parse_rates(text),
        lambda: parse_schedule(text),
        lambda: parse_nbd_uri(text),
        lambda: check_volume_name(text),
        lambda: parse_description(text),
    ):
        with suppress(MirrorlogError):
            reader()


def keys() -> Seeds:
    return [b"\1rvol\0" + bytes(19)]


def raw_commands() -> Seeds:
    """Return commands, each behind the number of its protocol."""
    commands = [
        "2a0000000000000001",
        "42000000000000001800",
        "9300000000000000000000ffffff",
        "0109",
    ]
    return [
        bytes([n % 3]) + bytes.fromhex(text).ljust(64, b"\0") for n, text in enumerate(commands)
    ]


def interpret_raw(data: bytes, _: Path) -> object:
    protocol = list(WireProtocol)[(data[0] if data else 0) % len(WireProtocol)]
    return interpret(
        protocol, data[1:65], data=data[65:], logical_block_bytes=512, size_bytes=1 << 40
    )


def traces() -> Seeds:
    return [
        b"128166372003061629,hm,1,Write,3154152,4096,41286\n",
        b"1538323200,2056,16,1,1283\n1538323201,8,8,0,1283\n",
        b"8,0 1 1 0.000000001 123 Q W 8 + 8 [dd]\n",
        b"fio version 3 iolog\n1 /f add\n2 /f open\n3 /f write 0 4096\n",
    ]


def read_trace(data: bytes, folder: Path) -> None:
    path = folder / "trace"
    path.write_bytes(data)
    for request in open_trace(path).records():
        assert request.length >= 0


def maps() -> Seeds:
    return [
        b'[{"start": 0, "length": 4096, "depth": 0, "zero": false, "data": true, "present": true}]',
        b'[{"offset": 0, "length": 512, "type": 0, "description": "data"}]',
        b'[{"offset": 0, "length": 512, "exists": "true"}]',
        b"0 512 zero\n1K 1M hole\n",
    ]


def read_maps(data: bytes, folder: Path) -> None:
    path = folder / "map"
    path.write_bytes(data)
    for source in (qemu_map_source, nbdinfo_source, rbd_diff_source, extent_list_source):
        with suppress(MirrorlogError):
            for change in source(path).changes():
                assert change is not None


def activity_logs() -> Seeds:
    return [bytes(8192), encode_close(UUID(UUID_1), number=1, through=5, state=b"s")]


def read_durable(data: bytes, _: Path) -> None:
    read_log(data)
    read_journal(lambda offset, length: data[offset : offset + length])


DECODERS = [
    Decoder("any event", events, lambda data, _: decode(data, object)),
    Decoder("record header", events, lambda data, _: decode_record_header(data)),
    Decoder("statuses", events, lambda data, _: list(read_statuses(data))),
    Decoder("command columns", commands, lambda data, _: decode_columns([data, None, data])),
    Decoder("bitmaps", bitmaps, unpack_both),
    Decoder("documents", documents, read_documents),
    Decoder("proofs", proofs, read_proofs),
    Decoder("texts", texts, read_texts),
    Decoder("keys", keys, lambda data, _: read_record_key(data)),
    Decoder("raw commands", raw_commands, interpret_raw, ()),
    Decoder("traces", traces, read_trace),
    Decoder("maps", maps, read_maps),
    Decoder("durable logs", activity_logs, read_durable, ()),
]

TOKENS = [
    *(b"\xff" * 10, b"\x80" * 9 + b"\x01", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\0" * 8),
    *(b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"-1", b"1e999", b"NaN", b"null", b"true"),
    *(b"../", b"\0", b"\r\n", b"%00", "٣".encode(), b"\xed\xa0\x80", b'"', b"\\u0000", b" "),
    *(struct.pack("<q", 2**63 - 1), struct.pack("<q", -(2**63)), struct.pack(">I", 2**32 - 1)),
]


def damaged(seed: bytes, others: Seeds, rng: random.Random) -> bytes:
    """Return a seed with one to six changes."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(data))
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:
                data[at:at] = rng.choice(TOKENS)
            case 3:
                del data[at : at + rng.randint(1, 16)]
            case 4:
                other = rng.choice(others)
                begin = rng.randint(0, len(other))
                data[at : at + rng.randint(0, 64)] = other[begin : begin + rng.randint(0, 256)]
            case 5:
                token = rng.choice(TOKENS)
                data[at : at + len(token)] = token
            case _:
                del data[at:]
    return bytes(data)
