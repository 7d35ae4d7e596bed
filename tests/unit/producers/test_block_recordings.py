"""Recordings of the block tracer: blktrace's bytes and blkparse's text give the same import."""

from __future__ import annotations

from pathlib import Path

import pytest
from block_traces import blkparse_text, blktrace_bytes
from import_cases import MIB, Q_WRITE, TERMS, event, rendered, tc

from mirrorlog.errors import BadInput, BadUse
from mirrorlog.producers.importers import (
    AddressRange,
    FitOptions,
    ImportSource,
    blkparse_source,
    blktrace_source,
    sequence_gaps,
)
from mirrorlog.producers.importers.sequence_gaps import SequenceGaps
from mirrorlog.producers.traces.blkparse import read_block_events
from mirrorlog.producers.traces.block_events import NO_DEVICE, BlockEvent

SIZE = 8 * MIB
ENCODERS = {"blktrace": blktrace_bytes, "blkparse": blkparse_text}
WHOLE = f"w0+{SIZE}"


def opened(kind: str, path: Path, terms: FitOptions = TERMS, **options: object) -> ImportSource:
    """Return the source in a file, for a volume of SIZE bytes."""
    volume_range = AddressRange(offset=-terms.shift, length=SIZE)
    if kind == "blktrace":
        return blktrace_source([path], volume_range, **options)  # type: ignore[arg-type]
    return blkparse_source(path, volume_range, **options)  # type: ignore[arg-type]


def imported(
    folder: Path, notation: str, terms: FitOptions = TERMS, **options: object
) -> tuple[str, list[str]]:
    """Return what is imported of a recording, and its doubts. Both kinds must agree."""
    writes = []
    for kind, encode in ENCODERS.items():
        path = folder / kind
        path.write_bytes(encode(notation))
        import_source = opened(kind, path, terms, **options)
        writes.append((rendered(import_source, SIZE, terms), import_source.warnings))
    assert writes[0] == writes[1], f"{ENCODERS.keys()} disagree"
    text, doubts = writes[0]
    return text.removesuffix(" |"), doubts


# events | the import (w is a write, d a discard) | a doubt
EVENTS = f"""
D W 8+8; C W 8+8                                        | w4096+4096        |
C W 8+8                                                 | w4096+4096        |
G W 8+8                                                 | w4096+4096        |
S W 8+8                                                 | w4096+4096        |
M W 8+8                                                 | w4096+4096        |
F W 8+8                                                 | w4096+4096        |
I W 8+8                                                 | w4096+4096        |
R W 8+8                                                 | w4096+4096        |
B W 8+8                                                 | w4096+4096        |
X W 8+8 / 16                                            | w4096+4096        |
D DS 8+8; C DS 8+8                                      | w4096+4096        |
Q W 8+8; G W 8+8; I W 8+8; D W 8+8; C W 8+8             | w4096+4096        |
Q W 8+8; P N; U N; D W 8+8; R W 8+8; D W 8+8; C W 8+8   | w4096+4096        |
Q W 0+8; Q W 8+8; M W 8+8; D W 0+16; C W 0+16           | w0+4096 w4096+4096 |
Q W 0+16; X W 0+8 / 8; D W 0+8; D W 8+8; C W 8+8; C W 0+8 | w0+8192         |
Q W 8+8; D W 0+16; C W 0+16                             | w4096+4096 w0+8192 |
D W 8+8; C W 8+8; D W 8+8; C W 8+8                      | w4096+4096 w4096+4096 |
Q W 8+8; Q W 8+8                                        | w4096+4096 w4096+4096 |
Q W 0+8 cpu=1; Q W 8+8 cpu=2; C W 8+8 cpu=1; C W 0+8 cpu=2 | w0+4096 w4096+4096 |
Q FWS; Q FWFS 8+8; D FN; C FN; D WFS 8+8; C WFS 8+8; C FN; C WFS 8+0; C FWS 0+0 | w4096+4096 |
Q W 8+8; A R 2048+8 < 8-17 0; Q R 2048+8 seq=5          | w4096+4096 {WHOLE} | CPU 0 are missing
Q W 8+8; A R 2048+8 < 8-17 0 seq=5; Q R 2048+8 seq=6    | w4096+4096 {WHOLE} | CPU 0 are missing
A R 2048+8 < 8-17 0; Q W 8+8 seq=5                      | {WHOLE} w4096+4096 | CPU 0 are missing
Q RA 0+8; D RA 0+8; C RA 0+8; Q W 8+8                   | w4096+4096        |
Q W 8+8; Q WS                                           | w4096+4096 {WHOLE} | manages a zone
C WS 64+0                                               | {WHOLE}           | manages a zone
Q FWS; D FN; C FN 0+0; C WS 2048+0; C WS 0+0; Q W 8+8   | w4096+4096        |
Q FWS 8+8; D FN; C FN 0+0; D WS 8+8; C WS 8+8; C WS 16+0 | w4096+4096       |
Q W 8+8; C FN 0+0 cpu=1; C WS 2048+0                    | w4096+4096 {WHOLE} | manages a zone
Q W 8+8; C FN 0+0; C W 8+8; C WS 2048+0                 | w4096+4096 {WHOLE} | manages a zone
Q W 8+8; C FN 0+0; C W pc 512                           | w4096+4096 {WHOLE} | passed through
D WS; C WS 2048+0                                       | {WHOLE} {WHOLE}   | manages a zone
C FN 0+0; C WS 2048+0                                   | {WHOLE}           | manages a zone
Q W 8+8; D W pc 8192 8a                                 | w4096+4096 {WHOLE} | passed through
Q W 8+8; C W pc 8192                                    | w4096+4096 {WHOLE} | passed through
I W pc 8192                                             | {WHOLE}           | passed through
D N pc 0; Q W 8+8                                       | {WHOLE} w4096+4096 | passed through
D N pc 0 00; C N pc 0 00; Q W 8+8                       | w4096+4096        |
D R pc 512 12; C R pc 512 12; Q W 8+8                   | w4096+4096        |
Q W 8+8; Q R 0+8 seq=3                                  | w4096+4096 {WHOLE} | CPU 0 are missing
Q R 0+8 cpu=3; Q R 0+8 seq=7 cpu=3                      | {WHOLE}           | CPU 3 are missing
Q W 8+8 seq=9; Q W 16+8 seq=1                           | w4096+4096 w8192+4096 |
Q W 8+8 seq=4294967295; Q W 16+8 seq=0                  | w4096+4096 w8192+4096 |
Q W 8+8; 8-0 Q R 0+8; 8-0 Q R 0+8 seq=5                 | w4096+4096        |
"""


@pytest.mark.parametrize("case", EVENTS.strip().splitlines())
def test_every_event_names_its_range_and_each_request_counts_once(
    tmp_path: Path, case: str
) -> None:
    notation, expected, doubt = (part.strip() for part in case.split("|"))
    text, doubts = imported(tmp_path, notation)
    assert text == expected
    assert [doubt in text for text in doubts] == [True] * bool(doubt)


def test_a_write_never_hides_behind_zeros_of_a_discard(tmp_path: Path) -> None:
    text, _ = imported(tmp_path, "Q D 8+8; D W 8+8; C W 8+8; C D 8+8", discard_zeroes=True)
    assert text == "d4096+4096 w4096+4096"


def test_a_recording_without_a_write_shows_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="names no write"):
        imported(tmp_path, "Q R 8+8")
    assert imported(tmp_path, "Q R 8+8", FitOptions(allow_empty=True)) == ("", [])


# Partition 8-17 begins at sector 2048 of disk 8-16, partition 8-18 at sector 4096.
PARTITIONS = """
8-17 A W 2048+8 < 8-17 0 > 8-16; 8-17 Q W 2048+8; 8-17 D W 2048+8       | w0+4096
8-17 A W 2064+8 < 8-17 16; 8-17 Q W 2064+8; 8-17 C W 2064+8             | w8192+4096
8-17 A W 16+8 < 253-0 400; 8-17 A W 2064+8 < 8-17 16; 8-17 Q W 2064+8   | w8192+4096
8-17 C W 2056+8; 8-17 A R 2064+8 < 8-17 16; 8-17 Q R 2064+8             | w4096+4096
8-17 A FWS 0+0 < 8-17 0; 8-17 A W 2064+8 < 8-17 16; 8-17 Q W 2064+8     | w8192+4096
8-17 A W 2048+8 < 8-17 0; 8-17 Q W 2048+8; 8-17 D W pc 512             | w0+4096 w0+8388608
A W 2048+8 < 8-17 0; Q W 2048+8; A W 4096+8 < 8-18 0; Q W 4096+8   | w1048576+4096 w2097152+4096
A W 2048+8 < 8-17 0 > 8-17; Q W 2048+8; D W 8+8                         | w1048576+4096 w4096+4096
A W 0+8 < 253-0 384 > 8-17; A W 2048+8 < 8-17 0 > 8-17; Q W 2048+8      | w1048576+4096
259-0 Q W 8+8                                                           | w4096+4096
253-3 Q W 8+8                                                           | w4096+4096
8-0 D W 8+8                                                             | w4096+4096
"""


@pytest.mark.parametrize("case", PARTITIONS.strip().splitlines())
def test_addresses_are_those_of_the_recorded_device(tmp_path: Path, case: str) -> None:
    notation, expected = (part.strip() for part in case.split("|"))
    assert imported(tmp_path, notation)[0] == expected


ON_PARTITION = "8-17 A W 2048+8 < 8-17 0; 8-17 Q W 2048+8"
# The recordings of several devices, of which one is remapped to another: a device | the import.
SEVERAL = """
253-0 Q W 8+8; 8-0 A W 5008+8 < 253-0 8; 8-0 Q W 5008+8                 | 253-0 | w4096+4096
253-0 Q W 8+8; 8-0 A W 5008+8 < 253-0 8; 8-0 Q W 5008+8                 | 8-0   | w2564096+4096
253-0 Q W 8+8; 8-0 A W 8+8 < 253-0 0 > 8-1; 8-0 A W 16+8 < 8-1 8 > 8-1; 8-0 Q W 16+8 | 8-0 | w8192+4096
253-0 Q W 8+8; 8-0 A W 8+8 < 253-0 0 > 8-1; 8-0 A W 16+8 < 8-1 8 > 8-1  | 253-0 | w4096+4096
259-3 A W 2048+8 < 259-3 0 > 259-0; 259-3 Q W 2048+8; 8-0 Q W 8+8       | 259-3 | w0+4096
259-3 A W 2048+8 < 259-3 0; 259-3 Q W 2048+8; 8-0 Q W 8+8               | 259-3 | w0+4096
253-0 Q W 8+8; 8-17 A W 100+8 < 253-0 8 > 8-16; 8-17 A W 2148+8 < 8-17 100 > 8-16; 8-17 Q W 2148+8 | 253-0 | w4096+4096
253-0 Q W 8+8; 8-17 A W 100+8 < 253-0 8 > 8-16; 8-17 A W 2148+8 < 8-17 100 > 8-16; 8-17 Q W 2148+8 | 8-17 | w51200+4096
"""  # noqa: E501


@pytest.mark.parametrize("case", SEVERAL.strip().splitlines())
def test_remaps_to_another_recorded_device_convert_nothing(tmp_path: Path, case: str) -> None:
    notation, device, expected = (part.strip() for part in case.split("|"))
    assert imported(tmp_path, notation, device=device)[0] == expected


def test_text_that_doesnt_show_which_device_is_the_partition_is_refused(tmp_path: Path) -> None:
    """A device mapper's device on a partition, before Linux 5.12. blktrace's files show it."""
    notation = (
        "253-0 Q W 8+8; 259-3 A W 100+8 < 253-0 8 > 259-0; "
        "259-3 A W 2148+8 < 259-3 100 > 259-0; 259-3 Q W 2148+8"
    )
    path = tmp_path / "text"
    path.write_bytes(blkparse_text(notation))
    with pytest.raises(BadInput, match="which of 253-0, 259-3 is a partition of 259-0"):
        rendered(opened("blkparse", path, device="253-0"), SIZE)
    path.write_bytes(blkparse_text("253-0 Q W 8+8; 259-3 A W 100+8 < 253-0 8 > 259-3"))
    with pytest.raises(BadInput, match="whether 253-0 is a partition"):
        rendered(opened("blkparse", path), SIZE)
    path.write_bytes(blktrace_bytes(notation))
    assert rendered(opened("blktrace", path, device="253-0"), SIZE) == "w4096+4096 |"
    assert rendered(opened("blktrace", path, device="259-3"), SIZE) == "w51200+4096 |"


UNKNOWN_BEGINS = {
    "8-17 Q W 2048+8": "8-17 is a partition",
    "202-1 C W 2048+8": "202-1 is a partition",
    "259-3 D W 2048+8; 259-3 C W 2048+8": "259-3 may be a partition",
    f"{ON_PARTITION}; 8-17 A W 2064+8 < 8-17 8": "bytes 1048576, 1052672 of its disk",
}


@pytest.mark.parametrize("notation", UNKNOWN_BEGINS)
def test_a_partition_whose_beginning_is_unknown_is_refused(tmp_path: Path, notation: str) -> None:
    for kind, encode in ENCODERS.items():
        path = tmp_path / kind
        path.write_bytes(encode(notation))
        with pytest.raises(BadInput, match=UNKNOWN_BEGINS[notation]):
            rendered(opened(kind, path), SIZE)


@pytest.mark.parametrize("notation", ["8-17 Q W 2048+8", ON_PARTITION])
def test_a_shift_of_the_user_replaces_the_conversion(tmp_path: Path, notation: str) -> None:
    by_hand = FitOptions(shift=-MIB)
    assert imported(tmp_path, notation, by_hand, shifted=True) == ("w0+4096", [])
    disk = imported(tmp_path, notation, FitOptions(shift=0), shifted=True)
    assert disk == (f"w{MIB}+4096", [])


def test_a_shift_that_contradicts_the_recording_is_a_doubt(tmp_path: Path) -> None:
    shift = FitOptions(shift=-MIB // 2)
    text, doubts = imported(tmp_path, ON_PARTITION, shift, shifted=True)
    assert text == f"w{MIB // 2}+4096"
    assert [f"begins at byte {MIB}" in doubt for doubt in doubts] == [True]


def test_what_lies_outside_the_partition_is_left_out_only_if_asked_for(tmp_path: Path) -> None:
    notation = f"{ON_PARTITION}; 8-17 Q W 0+8; 8-17 Q W 2040+16"
    with pytest.raises(BadInput, match=f"4096 bytes from byte -{MIB} on aren't all inside"):
        imported(tmp_path, notation)
    assert imported(tmp_path, notation, FitOptions(clip=True))[0] == "w0+4096 w0+4096"


DEVICES = {
    ("Q W 8+8; 8-0 Q R 8+8", None): "w4096+4096",
    ("Q W 8+8; 8-0 Q FW; 8-0 D FN; 8-0 C FN 0+0; 8-0 C W 0+0", None): "w4096+4096",
    ("Q W 8+8; 8-0 Q W 16+8", None): "8-16, 8-0.*--device",
    ("Q W 8+8; 8-0 Q W 16+8", "8-0"): "w8192+4096",
    ("Q W 8+8; 8-0 Q R 16+8", "8-0"): "no write to a device '8-0'.*8-16",
    ("Q W 8+8", "sda"): "no write to a device 'sda'.*8-16",
    ("A W 2048+8 < 8-17 0; Q W 2048+8", "8-17"): "'8-17'.*--offset-shift -START --clip",
}


@pytest.mark.parametrize("case", DEVICES, ids=str)
def test_the_device_is_named_unless_only_one_has_writes(
    tmp_path: Path, case: tuple[str, str | None]
) -> None:
    notation, device = case
    if DEVICES[case].startswith("w"):
        assert imported(tmp_path, notation, device=device)[0] == DEVICES[case]
    else:
        with pytest.raises(BadUse, match=DEVICES[case]):
            imported(tmp_path, notation, device=device)


def test_the_empty_file_of_an_idle_cpu_counts_as_no_events(tmp_path: Path) -> None:
    busy, idle = tmp_path / "vdb.blktrace.0", tmp_path / "vdb.blktrace.1"
    busy.write_bytes(blktrace_bytes("Q W 8+8"))
    idle.touch()
    for paths in ([busy, idle], [idle, busy]):
        import_source = blktrace_source(paths, AddressRange(offset=0, length=SIZE))
        assert rendered(import_source, SIZE) == "w4096+4096 |"
    with pytest.raises(BadInput, match="the file is empty"):
        rendered(blktrace_source([idle, idle], AddressRange(offset=0, length=SIZE)), SIZE)


def test_the_files_of_all_cpus_are_read_in_the_order_of_their_times(tmp_path: Path) -> None:
    """A write that was queued on CPU 1 and completed on CPU 0 counts once."""
    paths = [tmp_path / f"vdb.blktrace.{cpu}" for cpu in (0, 1)]
    paths[0].write_bytes(blktrace_bytes("C W 8+8 ms=3; Q W 16+8 ms=4"))
    paths[1].write_bytes(blktrace_bytes("Q W 8+8 cpu=1 ms=1; C W 16+8 cpu=1 ms=5"))
    import_source = blktrace_source(paths, AddressRange(offset=0, length=SIZE))
    assert rendered(import_source, SIZE) == "w4096+4096 w8192+4096 |"
    assert import_source.warnings == []


def test_a_remap_from_a_cgroup_has_the_cgroup_before_its_device(tmp_path: Path) -> None:
    device = (8 << 20 | 17).to_bytes(4, "big")
    remap = 15 | tc(4) | tc(1) | 1 << 8
    path = tmp_path / "cgroup"
    path.write_bytes(
        event(1, remap, 2048, 4096, device=8 << 20 | 17, data=bytes(8) + device * 2 + bytes(8))
        + event(2, Q_WRITE, 2048, 4096, device=8 << 20 | 17)
    )
    assert rendered(opened("blktrace", path), SIZE) == "w0+4096 |"
    path.write_bytes(event(1, remap, 2048, 4096, data=bytes(16)))
    with pytest.raises(BadInput, match="a remap without the device"):
        rendered(opened("blktrace", path), SIZE)


# What blkparse -s prints behind the events, and what -t adds to them.
SUMMARY = """fio (77, ...)
 Reads Queued:           0,        0KiB\t Writes Queued:           1,        4KiB
 PC Reads Req.:          0\t\t PC Writes Req.:          0
 IO unplugs:             0        \t Timer unplugs:           0
 Allocation wait:        0        \t Allocation wait:         0
 Dispatch wait:          0        \t Dispatch wait:           0
 Completion wait:        0        \t Completion wait:         0
kworker/u8:2 (9)
 Reads Queued:           0,        0KiB\t Writes Queued:           0,        0KiB

CPU0 (vdb):
 Reads Queued:           0,        0KiB\t Writes Queued:           1,        4KiB
 Read depth:             1        \t Write depth:             1

Throughput (R/W): 0KiB/s / 137KiB/s
Events (vdb): 3 entries
Skips: 0 forward (0 -   0.0%)
Input file vdb.blktrace.0 added

discarded traces containing low-level device driver specific data (only available in binary output)
"""
TIMED = """  8,16   0        1     0.000000000     1  I   W 8 + 8 ( 1000000) [dd]
  8,16   0        2     0.000000000     1  D  FN ( 1000000) [dd]
  8,16   0        3     0.000000000     1  C   W 16 + 8 ( 5000000) [0]
  8,16   0        4     0.000000000     1  C WFS 8 (12345678) [0]
"""


def test_the_summary_of_processes_and_the_times_of_requests_are_read(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text(TIMED + SUMMARY)
    assert rendered(opened("blkparse", path), SIZE) == "w4096+4096 w8192+4096 |"
    for summary in ("fio (77)\n", "fio (77)\nfio (78)\n", f"fio (7)\n{TIMED}"):
        path.write_text(TIMED + summary)
        with pytest.raises(BadInput, match=r"'fio \(7+\)' is neither an event"):
            rendered(opened("blkparse", path), SIZE)


LINE = "8,16 0 1 0.000000000 1 "
CUT = ["Q W", "Q W 8", "Q W 8 +", "Q W 8 + 8", "Q W 8 + 8 [dd", "C W 8", "C W 8 + 8", "D W 512 (8a"]


@pytest.mark.parametrize("cut", CUT)
def test_a_line_that_was_cut_is_refused_even_if_it_ends(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "text"
    path.write_text(f"{LINE}Q W 80 + 8 [dd]\n{LINE}{cut}\n")
    with pytest.raises(BadInput, match=r"isn't a sector and a count.*record 2"):
        rendered(opened("blkparse", path), SIZE)


def test_a_gap_is_filled_by_remaps_of_unknown_devices() -> None:
    """Two devices share the numbers of a CPU's remaps in text; then a gap of one may be another's.

    Each word is an event: a remap (A), or one of device a or b, and its number.
    """
    for words, gaps in {
        "A1 a2 A3 A4 a5": "",
        "a1 A2 A3 b7 a4 b8": "",
        "a1 A2 a4": "a4",
        "A7 a8 a10": "a10",
        "a1 b1 A2 A2 b3 a3 A4": "",
        "A1 a5": "end",
        "A1 b7 a2": "",
        "a3 b9 A4 A5": "",
        "A1 A2": "",
    }.items():
        sequences = SequenceGaps()
        gap_words = [word for word in words.split() if sequences.is_behind_gap(numbered(word))]
        assert not sequences.knows_devices
        gap_words += ["end"] if sequences.ends_in_gap() else []
        assert " ".join(gap_words) == gaps, words
    of_one_device = SequenceGaps("a")
    assert [of_one_device.is_behind_gap(numbered(word)) for word in ("A1", "a5")] == [False, True]


def numbered(word: str) -> BlockEvent:
    """Return an event of CPU 0 with the device and the number in a word such as `a7` or `A7`."""
    (one,) = read_block_events(iter([blkparse_text(f"Q R 8+8 seq={word[1:]}").rstrip(b"\n")]))
    return one._replace(device=NO_DEVICE if word[0] == "A" else word[0])


def test_the_memory_for_numbers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_gaps, "MAX_SEQUENCES", 3)
    monkeypatch.setattr(sequence_gaps, "_MAX_UNOWNED", 3)
    sequences = SequenceGaps()
    for word in ("a1", "b1", "A2", "A3", "A4", "A5"):
        assert not sequences.is_behind_gap(numbered(word))
    assert sequences.is_behind_gap(numbered("a6")), "the first remaps are forgotten"
    sequences.is_behind_gap(numbered("c1"))
    with pytest.raises(BadInput, match="more than 3 devices and CPUs"):
        sequences.is_behind_gap(numbered("d1"))
