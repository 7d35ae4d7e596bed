"""What each field of a source means, on inputs written by hand from the documented formats."""

from __future__ import annotations

from pathlib import Path

import pytest
from import_cases import (
    EMPTY,
    MIB,
    NOW_US,
    Q_DISCARD,
    Q_FLUSH,
    Q_READ,
    Q_WRITE,
    TIMESTAMP,
    batches,
    event,
    lines,
    rendered,
    source,
    tc,
)
from notation import volume

from mirrorlog.errors import BadInput, BadUse
from mirrorlog.producers.importers import (
    AddressRange,
    FitOptions,
    ImportCounts,
    blktrace_source,
    import_batches,
)

K = 1024


def write_source(folder: Path, content: bytes | str) -> Path:
    path = folder / "source"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# depth present zero data (a map of 64 KiB) | the import: - nothing, m may differ, z zeros
QEMU = """
0 true  false true  "offset": 0 | m
0 true  true  false             | z
0 true  true  true  "offset": 0 | z
1 true  false true  "offset": 0 | -
1 true  true  false             | -
0 false true  false             | z
1 false true  false             | -
0 false false true              | m
0 false false false             | m
0 false false false "offset": 0 | -
0 true  false false "offset": 0 | m
0 -     false true  "offset": 0 | m
0 -     true  false             | z
0 -     false false             | m
"""


@pytest.mark.parametrize("case", QEMU.strip().splitlines())
def test_a_qemu_map_imports_what_its_newest_layer_holds(tmp_path: Path, case: str) -> None:
    row, expected = case.split("|")
    depth, present, zero, data, *offset = row.split(maxsplit=4)
    optional = "" if present == "-" else f'"present": {present}, '
    fields = f'"depth": {depth}, {optional}"zero": {zero}, "data": {data}' + "".join(
        f", {field}" for field in offset
    )
    path = write_source(tmp_path, f'[{{ "start": 0, "length": 65536, {fields}}}]\n')
    text = rendered(source("qemu-map", path), 65536)
    assert text == {"-": ""}.get(expected.strip(), f"{expected.strip()}0+65536 |")


X_DIRTY_BITMAP = """[{ "start": 0, "length": 65536, "depth": 0, "present": true,
"zero": false, "data": true, "offset": 0},
{ "start": 65536, "length": 131072, "depth": 0, "present": false, "zero": false, "data": false},
{ "start": 196608, "length": 851968, "depth": 0, "present": true, "zero": false, "data": true,
"offset": 196608}]
"""


def test_a_map_of_a_dirty_bitmap_is_dirty_in_doubt_and_never_inverted(
    tmp_path: Path,
) -> None:
    path = write_source(tmp_path, X_DIRTY_BITMAP)
    assert rendered(source("qemu-map", path, dirty_bitmap=True)) == "m65536+131072 |"
    undeclared = source("qemu-map", path)
    assert rendered(undeclared) == "m0+1048576 |"
    assert "--dirty-bitmap" in undeclared.warnings[0]
    for of_an_image in (
        X_DIRTY_BITMAP.replace('"zero": false', '"zero": true', 1),
        X_DIRTY_BITMAP.replace('depth": 0', 'depth": 1'),
    ):
        path.write_text(of_an_image)
        with pytest.raises(BadInput, match="this map is of an image"):
            rendered(source("qemu-map", path, dirty_bitmap=True))


def test_more_layers_of_a_chain(tmp_path: Path) -> None:
    rows = ", ".join(
        f'{{"start": {n * K}, "length": {K}, "depth": {n}, "present": true, '
        '"zero": false, "data": true}'
        for n in range(4)
    )
    path = write_source(tmp_path, f"[{rows}]")
    assert [rendered(source("qemu-map", path, layers=n), 4 * K) for n in (1, 2, 4)] == [
        "m0+1024 |",
        "m0+2048 |",
        "m0+4096 |",
    ]


# type, description, what is imported
NBD = """
0 clean           | -
1 dirty           | m
1 local           | error
0 absent          | error
2 backing depth 2 | error
1                 | m
0                 | m
5 flavour         | m
0 dirty           | error
1 clean           | error
0 data            | error
3 hole,zero       | error
"""


@pytest.mark.parametrize("case", NBD.strip().splitlines())
def test_descriptions_identify_the_context_of_an_nbdinfo_map(tmp_path: Path, case: str) -> None:
    row, expected = (part.strip() for part in case.split("|"))
    kind, _, description = row.partition(" ")
    optional = f', "description": "{description}"' if description else ""
    path = write_source(
        tmp_path, f'[\n{{ "offset": 0, "length": 1048576, "type": {kind}{optional}}}\n]\n'
    )
    if expected == "error":
        with pytest.raises(BadInput, match=f"{path}, record 1, byte 2"):
            rendered(source("nbdinfo", path))
    else:
        assert rendered(source("nbdinfo", path)) == {"-": ""}.get(expected, "m0+1048576 |")


def test_rbd_diff(tmp_path: Path) -> None:
    text = (
        '[{"offset":0,"length":4096,"exists":"true"},{"offset":4096,"length":4096,"exists":"true"},'
    )
    path = write_source(tmp_path, text + '{"offset":65536,"length":8192,"exists":"false"}]')
    assert rendered(source("rbd-diff", path)) == "z65536+8192 | m0+8192 |"


THIN = """<superblock uuid="" time="1" transaction="1" data_block_size="128" nr_data_blocks="9">
  <diff left="1" right="2">
    <same begin="0" length="2"/>
    <different begin="2" length="1"/>
    <left_only begin="3" length="1"/>
    <right_only begin="6" length="1"/>
  </diff>
</superblock>
"""
THIN_VERBOSE = """<superblock uuid="" time="1" transaction="1" version="2" data_block_size="128"
 nr_data_blocks="9">
  <diff left_root="7" right="2">
    <same> <range begin="0" data_begin="0" length="2"/> </same>
    <different> <range begin="2" left_data_begin="2" right_data_begin="9" length="1"/> </different>
    <left_only> <range begin="3" data_begin="3" length="1"/> </left_only>
    <right_only> <range begin="6" data_begin="3" length="1"/></right_only>
  </diff>
</superblock>
"""


@pytest.mark.parametrize("text", [THIN, THIN_VERBOSE])
def test_thin_delta_in_both_forms(tmp_path: Path, text: str) -> None:
    # The last block reaches beyond the end of the volume.
    volume_range = AddressRange(offset=0, length=6 * 65536 + 100)
    assert (
        rendered(
            source("thin-delta", write_source(tmp_path, text), volume_range), volume_range.length
        )
        == "m131072+131072 m393216+100 |"
    )


EXTENTS = "0 4096\n  8K 1k hole\n\n1M 512 hole,zero\r\n8s 1s 0\n2097152 1b zero\n"


def test_an_extent_list(tmp_path: Path) -> None:
    path = write_source(tmp_path, EXTENTS)
    assert (
        rendered(source("extentlist", path), 4 * MIB)
        == "z1048576+512 z2097152+1 | m0+4096 m8192+1024 m4096+512 |"
    )


FIO_3 = """fio version 3 iolog
0 /dev/vdb add
1 /dev/vdb open
2 /dev/vdb read 0 512
30 /dev/vdb write 4096 4096
31 /dev/vdb sync 4096 0
40 /dev/vdb trim 65536 4096
50 /dev/vdb close
"""
FIO_2 = """fio version 2 iolog
/dev/vdb add
/dev/vdb open
/dev/vdb write 4096 4096
/dev/vdb wait 1000 0
/dev/vdb trim 65536 4096
/dev/vdb close
"""


@pytest.mark.parametrize("text", [FIO_2, FIO_3])
def test_both_versions_of_fios_log(tmp_path: Path, text: str) -> None:
    path = write_source(tmp_path, text)
    assert rendered(source("fio", path)) == "w4096+4096 w65536+4096 |"
    assert rendered(source("fio", path, discard_zeroes=True)) == "w4096+4096 d65536+4096 |"


BLKTRACE = b"".join(
    (
        event(
            0,
            TIMESTAMP,
            time_ns=1_000,
            data=(1_700_000_000).to_bytes(4, "little") + (5_000).to_bytes(4, "little"),
        ),
        event(0, tc(10), data=b"dd" + bytes(14)),
        event(7, Q_WRITE, 8, 4096, time_ns=3_000_000_000),
        event(8, Q_READ, 0, 4096),
        event(9, 15 | tc(4) | tc(1), 2048, 4096, data=bytes(16)),
        event(10, 7 | tc(6) | tc(1), 8, 4096),
        event(11, Q_FLUSH),
        event(12, Q_DISCARD | 1 << 8, 128, 65536, time_ns=4_000_000_000, data=bytes(8)),
    )
)


def test_blktrace_imports_queued_requests_with_the_time_of_day(tmp_path: Path) -> None:
    path = write_source(tmp_path, BLKTRACE)
    assert rendered(source("blktrace", path)) == "w4096+4096 w65536+65536 |"
    batch, *_ = batches(source("blktrace", path))
    assert (batch.first_at_us, batch.last_at_us) == (1_700_000_003_000_004, 1_700_000_004_000_004)


@pytest.mark.parametrize(("version", "order"), [(7, ">"), (8, "<"), (8, ">")])
def test_versions_and_byte_orders_of_blktrace(tmp_path: Path, version: int, order: str) -> None:
    content = b"".join(
        event(n, Q_WRITE, 8 * n, 512, version=version, order=order, data=b"x" * n)
        for n in (1, 2, 3)
    )
    path = write_source(tmp_path, content)
    assert rendered(source("blktrace", path)) == "w4096+512 w8192+512 w12288+512 |"


def test_the_files_of_all_cpus_are_one_recording(tmp_path: Path) -> None:
    paths = [tmp_path / f"vdb.blktrace.{cpu}" for cpu in (0, 1)]
    time = (1_700_000_000).to_bytes(4, "little") + bytes(4)
    paths[0].write_bytes(event(1, Q_WRITE, 0, 512))
    paths[1].write_bytes(event(0, TIMESTAMP, data=time) + event(9, Q_WRITE, 8, 512, cpu=1))
    batch, *_ = batches(blktrace_source(paths, AddressRange(offset=0, length=MIB)))
    assert [extent.offset for extent in batch.extents] == [0, 4096]
    assert batch.first_at_us == 1_700_000_000_000_000


# Events that don't say where the device wrote.
UNKNOWN_RANGES = {
    "lost": event(1, Q_WRITE, 8, 512) + event(3, Q_READ, 0, 512),
    "zone": event(1, Q_WRITE, 8, 512) + event(2, Q_WRITE, 64, 0),
    "passed": event(1, Q_WRITE, 8, 512) + event(2, 7 | tc(6) | tc(1) | tc(9), 0, 0, data=bytes(16)),
}


@pytest.mark.parametrize("case", UNKNOWN_RANGES)
def test_the_whole_volume_is_dirty_if_blktrace_doesnt_know_the_range(
    tmp_path: Path, case: str
) -> None:
    import_source = source(
        "blktrace",
        write_source(tmp_path, UNKNOWN_RANGES[case]),
        AddressRange(offset=4096, length=MIB),
    )
    assert rendered(import_source, MIB, FitOptions(shift=-4096)) == f"w0+512 w0+{MIB} |"
    assert "the whole volume is dirty" in import_source.warnings[0]


MSR = "116444736010000000,src,1,Write,4096,512,9\n116444736030000000,src,1,Write,8192,512,9\n"
TENCENT = "1538323200,8,1,1,7\n1538323199,16,1,1,7\n"
BLKPARSE = "8,0 0 1 0.000000000 1 Q W 8 + 1 [d]\n8,0 0 2 5.000000000 1 Q W 16 + 1 [d]\n"

# kind, content, --began in seconds, first and last time in seconds (now if the epoch is unknown)
TIMES = [
    ("msr", MSR, None, 1, 3),
    ("tencent", TENCENT, None, 1538323199, 1538323200),
    ("blkparse", BLKPARSE, None, NOW_US / 1e6, NOW_US / 1e6),
    ("blkparse", BLKPARSE, 100, 100, 105),
    ("msr", MSR, 100, 100, 102),
    ("tencent", TENCENT, 0, 0, 0),
    ("rbd-diff", '[{"offset":0,"length":1,"exists":"true"}]', None, NOW_US / 1e6, NOW_US / 1e6),
    ("rbd-diff", '[{"offset":0,"length":1,"exists":"true"}]', 100, 100, NOW_US / 1e6),
    ("tencent", "9999999999,8,1,1,7\n", None, NOW_US / 1e6, NOW_US / 1e6),
]


@pytest.mark.parametrize("case", TIMES, ids=str)
def test_times(tmp_path: Path, case: tuple[str, str, int | None, float, float]) -> None:
    kind, content, began_s, first_s, last_s = case
    options = FitOptions(began_us=None if began_s is None else began_s * 1_000_000)
    (batch,) = batches(source(kind, write_source(tmp_path, content)), terms=options)
    assert (batch.first_at_us, batch.last_at_us) == (first_s * 1e6, last_s * 1e6)


# kind, content, --began in seconds, the time of each write in seconds (None: it has none)
OWN_TIMES = [
    ("msr", MSR, None, [1, 3]),
    ("tencent", TENCENT, None, [1538323200, 1538323199]),
    ("blkparse", BLKPARSE, None, None),
    ("blkparse", BLKPARSE, 100, [100, 105]),
    ("rbd-diff", '[{"offset":0,"length":1,"exists":"false"}]', 100, None),
]


@pytest.mark.parametrize("case", OWN_TIMES, ids=str)
def test_writes_have_times_of_their_own_if_the_epoch_is_known(
    tmp_path: Path, case: tuple[str, str, int | None, list[int] | None]
) -> None:
    kind, content, began_s, times_s = case
    options = FitOptions(began_us=None if began_s is None else began_s * 1_000_000)
    counts = ImportCounts()
    (batch,) = import_batches(
        source(kind, write_source(tmp_path, content)),
        volume("v", MIB),
        options,
        now_us=NOW_US,
        max_extents=500,
        counts=counts,
    )
    times_us = None if times_s is None else [second * 1_000_000 for second in times_s]
    assert (None if batch.times_us is None else batch.times_us.tolist()) == times_us
    assert counts.recorded_since_us == (None if times_us is None else min(times_us))


def test_one_of_several_devices_has_to_be_named(tmp_path: Path) -> None:
    path = write_source(tmp_path, BLKPARSE + "8,16 0 3 5.000000000 1 Q W 24 + 1 [d]\n")
    with pytest.raises(BadUse, match=r"8-0, 8-16.*--device"):
        rendered(source("blkparse", path))
    assert rendered(source("blkparse", path, device="8-16")) == "w12288+512 |"
    with pytest.raises(BadUse, match=r"'sda'.*8-0, 8-16"):
        rendered(source("blkparse", path, device="sda"))


def test_the_named_device_may_appear_late(tmp_path: Path) -> None:
    rows = (f"1538323200,{n},1,1,{n}" for n in range(50))
    path = write_source(tmp_path, lines(rows))
    assert rendered(source("tencent", path, device="vol49")) == "w25088+512 |"


def listed(*rows: str) -> bytes:
    return lines(rows)


# A list of extents for a volume of 1 MiB, and the options.
FITS = [
    ("4096 4096", FitOptions(shift=4096), "m8192+4096 |"),
    ("8192 4096", FitOptions(shift=-4096), "m4096+4096 |"),
    ("0 8192", FitOptions(shift=-4096, clip=True), "m0+4096 |"),
    ("1044480 8192", FitOptions(clip=True), "m1044480+4096 |"),
    ("2M 4096", FitOptions(clip=True), ""),
    ("0 8192", FitOptions(shift=-4096), "8192 bytes from byte -4096 on aren't all inside volume v"),
    ("1044480 8192", FitOptions(), "8192 bytes from byte 1044480 on aren't all inside volume v"),
]


@pytest.mark.parametrize(("row", "options", "expected"), FITS, ids=str)
def test_addresses_are_shifted_and_checked_against_the_volume(
    tmp_path: Path, row: str, options: FitOptions, expected: str
) -> None:
    import_source = source("extentlist", write_source(tmp_path, listed("0 0", row)))
    if "aren't" in expected:
        with pytest.raises(BadInput, match=expected):
            rendered(import_source, MIB, options)
    else:
        assert rendered(import_source, MIB, options) == expected


# Ranges as start+length; * is dirty.
PARTS = {
    "0+512 *512+512": None,
    "*0+512": "reaches from byte 0 to 512",
    "*512+512": "reaches from byte 512 to 1024",
    "*0+512 768+256": "begins at byte 768, and the one before ends at 512",
    "*0+512 *0+512": "begins at byte 0, and the one before ends at 512",
    "*0+512 512+1024": None,
}


@pytest.mark.parametrize("ranges", PARTS)
def test_a_map_must_describe_the_whole_volume(tmp_path: Path, ranges: str) -> None:
    rows = []
    for word in ranges.split():
        offset, length = word.lstrip("*").split("+")
        kind = int(word.startswith("*"))
        description = ("clean", "dirty")[kind]
        rows.append(
            f'{{"offset": {offset}, "length": {length}, "type": {kind}, '
            f'"description": "{description}"}}'
        )
    import_source = source("nbdinfo", write_source(tmp_path, f"[{', '.join(rows)}]"))
    if (message := PARTS[ranges]) is None:
        rendered(import_source, 1024)
    else:
        with pytest.raises(BadInput, match=message):
            rendered(import_source, 1024)
    rendered(import_source, 1024, FitOptions(partial=True))


@pytest.mark.parametrize("kind", EMPTY)
def test_a_source_that_names_nothing_has_to_be_allowed(tmp_path: Path, kind: str) -> None:
    import_source = source(kind, write_source(tmp_path, EMPTY[kind]))
    with pytest.raises(BadInput, match="the source is empty: it names no") as error:
        rendered(import_source, terms=FitOptions(partial=True))
    assert kind in error.value.where and "--allow-empty" in error.value.next
    assert rendered(import_source, terms=FitOptions(partial=True, allow_empty=True)) == ""


@pytest.mark.parametrize("kind", ["qemu-map", "nbdinfo"])
def test_an_empty_map_that_is_allowed_still_has_to_describe_the_volume(
    tmp_path: Path, kind: str
) -> None:
    import_source = source(kind, write_source(tmp_path, EMPTY[kind]))
    with pytest.raises(BadInput, match="reaches from byte 0 to 0"):
        rendered(import_source, terms=FitOptions(allow_empty=True))


UNCHANGED = {
    "qemu-map": '[{"start": 0, "length": 1048576, "depth": 1, "zero": false, "data": true}]',
    "nbdinfo": '[{"offset": 0, "length": 1048576, "type": 0, "description": "clean"}]',
    "thin-delta": '<superblock data_block_size="8"><diff><same begin="0" length="9"/></diff>'
    "</superblock>",
}


@pytest.mark.parametrize("kind", UNCHANGED)
def test_a_map_that_says_that_all_is_unchanged_isnt_empty(tmp_path: Path, kind: str) -> None:
    assert rendered(source(kind, write_source(tmp_path, UNCHANGED[kind]))) == ""


# kind, content, place of the error, text of the error
BROKEN = [
    ("qemu-map", "", "byte 0|source", "doesn't begin with '\\['"),
    ("qemu-map", '[{"start": 0, "length": 1', "record 1, byte 1", "isn't complete JSON"),
    (
        "qemu-map",
        '[{"start": 0, "length": 1, "depth": 0, "zero": 1, "data": true}]',
        "record 1, byte 1",
        "'zero'",
    ),
    (
        "qemu-map",
        '[{"start": true, "length": 1, "depth": 0, "zero": false, "data": true}]',
        "record 1",
        "'start'",
    ),
    ("nbdinfo", '[{"offset": 0, "length": 5.5, "type": 1}]', "record 1", "'length'"),
    ("nbdinfo", '[{"offset": -1, "length": 5, "type": 1}]', "record 1", "'offset'"),
    (
        "nbdinfo",
        '[{"size": 10, "percent": 100, "type": 0, "description": "clean"}]',
        "record 1",
        "'offset'",
    ),
    (
        "nbdinfo",
        '[\n{"offset": 0, "length": 1, "type": 1}\n{',
        "record 1, byte 40",
        "neither ',' nor",
    ),
    (
        "nbdinfo",
        '[{"offset": NaN, "length": 1, "type": 1}]',
        "record 1, byte 1",
        "value that no known tool writes",
    ),
    (
        "nbdinfo",
        "[" + '{"a":' * 20_000,
        "record 1, byte 1",
        "value that no known tool writes|isn't JSON",
    ),
    (
        "nbdinfo",
        '[{"offset": ' + "9" * 5000 + "}]",
        "record 1, byte 1",
        "value that no known tool writes",
    ),
    ("rbd-diff", "[" + " " * 70_000 + "1]", "record 1, byte 70001", "isn't an object"),
    ("rbd-diff", "[1]", "record 1, byte 1", "isn't an object"),
    ("rbd-diff", "[] x", "source", "something follows the list"),
    ("rbd-diff", '[{"offset":0,"length":1,"exists":true}]', "record 1", "'exists'"),
    (
        "rbd-diff",
        '[{"offset":9223372036854775807,"length":1,"exists":"true"}]',
        "record 1",
        "ends above byte",
    ),
    ("thin-delta", THIN[:150], "record 4, byte 150", "isn't complete XML"),
    ("thin-delta", THIN.replace("128", "0"), "record 1, byte 0", "data_block_size is 0"),
    ("thin-delta", THIN.replace('data_block_size="128"', ""), "record 1", "data_block_size ''"),
    ("thin-delta", THIN.replace('length="2"', 'length="-2"'), "record 3, byte 119", "length '-2'"),
    ("thin-delta", THIN.replace("<same", "<samey"), "record 3", "<samey> inside <diff>"),
    ("thin-delta", f"<!DOCTYPE a [<!ENTITY b 'c'>]>{THIN}", "record 1", "document type"),
    ("thin-delta", '<superblock data_block_size="128"/>', "source", "no <diff>"),
    ("thin-delta", "", "record 1, byte 0", "isn't complete XML"),
    ("thin-delta", "<a><a>", "record 1", "<a> inside <>"),
    ("extentlist", "0 4096\n8192 40", "record 2, byte 7", "has no line end"),
    ("extentlist", "0 4096 sparse\n", "record 1, byte 0", "isn't a type of an extent"),
    ("extentlist", "0 4q\n", "record 1", "isn't a size"),
    ("extentlist", "0 8E\n", "record 1", "ends above byte"),
    ("fio", FIO_3.replace("version 3", "version 4"), "record 1", "not with"),
    ("fio", FIO_3.replace("trim", "copy"), "record 7, byte 125", "isn't an action of fio"),
    ("fio", FIO_3[:-1], "record 8", "has no line end"),
    ("fio", FIO_3.replace("30 ", "x "), "record 5", "timestamp 'x'"),
    ("blktrace", b"", "record 1", "is empty"),
    ("blktrace", BLKTRACE[:-1], "record 8, byte 376", "middle of an event's data"),
    ("blktrace", BLKTRACE[:60], "record 2, byte 56", "middle of an event"),
    ("blktrace", BLKPARSE, "record 1, byte 0", "no event of blktrace.*import it as blkparse"),
    (
        "blktrace",
        event(1, Q_WRITE, version=7).replace(b"\x07\x74", b"\x09\x74", 1),
        "record 1",
        "version 9",
    ),
    ("blktrace", event(1, Q_WRITE, 1 << 60, 512), "record 1", "ends above"),
    ("blkparse", "8,0 0 1 0.0 what\n", "record 1", "neither an event"),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case[0]}: {case[3]}")
def test_a_malformed_source_is_reported_with_its_place(
    tmp_path: Path, case: tuple[str, bytes | str, str, str]
) -> None:
    kind, content, where, what = case
    with pytest.raises(BadInput, match=what) as error:
        rendered(source(kind, write_source(tmp_path, content)))
    assert any(place in error.value.where for place in where.split("|")), error.value.where
    assert error.value.next
