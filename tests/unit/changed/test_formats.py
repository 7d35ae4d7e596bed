"""Changed blocks in the shapes that tools read, for a volume whose last block is partial."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

import pytest
from notation import volume

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import EBS_PAGE, FORMATS, JSON_FORMATS, render
from mirrorlog.domain.bitmaps import BlockSet, runs
from mirrorlog.errors import BadUse

SIZE = 7 * 4096 + 100


def answer(changed: object, zeroed: object = (), size_bytes: int = SIZE) -> ChangedBlocks:
    blocks = BlockSet(changed)
    first, last = (1_700_000_000_000_000, 1_700_000_001_000_000) if blocks else (None, None)
    hosts = ("h1", "h2") if blocks else ()
    return ChangedBlocks(
        volume("v", size_bytes), -1, 9, blocks, BlockSet(zeroed), hosts, first, last, 3
    )


ANSWER = answer([0, 1, 2, 4, 7], [2, 7])
WHO = '"hosts": ["h1", "h2"], "first_write_at": "2023-11-14T22:13:20.000000Z", "last_write_at": "2023-11-14T22:13:21.000000Z"'
NOBODY = '"hosts": [], "first_write_at": null, "last_write_at": null'
EXPECTED = {
    "table": """v: 5 of 8 blocks changed (20.0 KiB) after position -1, through 9
3 writes by h1, h2, the first 2023-11-14T22:13:20.000000Z, the last 2023-11-14T22:13:21.000000Z
               START               LENGTH
                   0                 8192
                8192                 4096  zero
               16384                 4096
               28672                  100  zero
""",
    "json": f"""[
{{"start": 0, "length": 8192, "dirty": true, "zero": false, {WHO}}},
{{"start": 8192, "length": 4096, "dirty": true, "zero": true, {WHO}}},
{{"start": 12288, "length": 4096, "dirty": false, "zero": false, {NOBODY}}},
{{"start": 16384, "length": 4096, "dirty": true, "zero": false, {WHO}}},
{{"start": 20480, "length": 8192, "dirty": false, "zero": false, {NOBODY}}},
{{"start": 28672, "length": 100, "dirty": true, "zero": true, {WHO}}}
]
""",
    "qemu-map": """[
{"start": 0, "length": 8192, "depth": 0, "present": true, "zero": false, "data": true, "offset": 0},
{"start": 8192, "length": 4096, "depth": 0, "present": true, "zero": true, "data": false, "offset": 8192},
{"start": 12288, "length": 4096, "depth": 0, "present": false, "zero": false, "data": false, "offset": 12288},
{"start": 16384, "length": 4096, "depth": 0, "present": true, "zero": false, "data": true, "offset": 16384},
{"start": 20480, "length": 8192, "depth": 0, "present": false, "zero": false, "data": false, "offset": 20480},
{"start": 28672, "length": 100, "depth": 0, "present": true, "zero": true, "data": false, "offset": 28672}
]
""",
    "nbdinfo": """[
{"offset": 0, "length": 12288, "type": 1, "description": "dirty"},
{"offset": 12288, "length": 4096, "type": 0, "description": "clean"},
{"offset": 16384, "length": 4096, "type": 1, "description": "dirty"},
{"offset": 20480, "length": 8192, "type": 0, "description": "clean"},
{"offset": 28672, "length": 100, "type": 1, "description": "dirty"}
]
""",
    "rbd": """[
{"offset": 0, "length": 8192, "exists": "true"},
{"offset": 8192, "length": 4096, "exists": "false"},
{"offset": 16384, "length": 4096, "exists": "true"},
{"offset": 28672, "length": 100, "exists": "false"}
]
""",
    "ebs": '{"BlockSize": 4096, "VolumeSize": 1, "NextToken": null, "ChangedBlocks": [{"BlockIndex": 0}, {"BlockIndex": 1}, '
    '{"BlockIndex": 2}, {"BlockIndex": 4}, {"BlockIndex": 7}]}\n',
    "extentlist": "0 8192\n8192 4096\n16384 4096\n28672 100\n",
    "csv": "start,length,zero\n0,8192,false\n8192,4096,true\n16384,4096,false\n28672,100,true\n",
    "ranges": "0-8191\n8192-12287\n16384-20479\n28672-28771\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    assert "".join(render(ANSWER, name)) == EXPECTED[name]


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_changed(name: str) -> None:
    text = "".join(render(answer([]), name))
    if name in JSON_FORMATS:
        json.loads(text)
    whole = {"table", "json", "qemu-map", "nbdinfo", "csv"}
    assert (str(SIZE) in text or "start" in text or "0 of 8" in text) is (name in whole)


# offset | what json lists from there as start+length, d: dirty, z: dirty and zero
RESUMED = """
0      | d0+8192 z8192+4096 12288+4096 d16384+4096 20480+8192 z28672+100
4096   | d4096+4096 z8192+4096 12288+4096 d16384+4096 20480+8192 z28672+100
4097   | d4097+4095 z8192+4096 12288+4096 d16384+4096 20480+8192 z28672+100
12290  | 12290+4094 d16384+4096 20480+8192 z28672+100
28771  | z28771+1
28772  |
"""


@pytest.mark.parametrize("case", RESUMED.strip("\n").splitlines())
def test_a_listing_is_resumed_at_a_byte(case: str) -> None:
    offset, expected = case.split("|")
    entries = json.loads("".join(render(ANSWER, "json", int(offset))))
    mark = {(False, False): "", (True, False): "d", (True, True): "z"}
    assert [
        f"{mark[e['dirty'], e['zero']]}{e['start']}+{e['length']}" for e in entries
    ] == expected.split()


def test_pages_of_ebs_end_with_a_token_that_resumes_them() -> None:
    many = answer(range(1, 3 * EBS_PAGE, 2), size_bytes=3 * EBS_PAGE * 4096)
    indexes, token, pages = list[int](), "0", 0
    while token is not None:
        page = json.loads("".join(render(many, "ebs", int(token))))
        indexes += [entry["BlockIndex"] for entry in page["ChangedBlocks"]]
        token, pages = page["NextToken"], pages + 1
    assert (indexes, pages) == (list(many.changed), 2)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "ebs"])
def test_a_listing_streams(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def counted(blocks: BlockSet) -> Iterator[tuple[int, int]]:
        nonlocal taken
        for run in runs(blocks):
            taken += 1
            yield run

    monkeypatch.setattr("mirrorlog.changed.formats.runs", counted)
    pieces = render(answer(range(0, 4000, 2), size_bytes=1 << 30), name)
    assert len(list(islice(pieces, 20))) == 20
    assert taken <= 21


@pytest.mark.parametrize(("name", "offset"), [("yaml", 0), ("json", SIZE + 1), ("json", -1)])
def test_an_unknown_format_and_an_offset_outside_are_bad_use(name: str, offset: int) -> None:
    with pytest.raises(BadUse):
        render(ANSWER, name, offset)
