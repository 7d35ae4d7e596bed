"""Logs that several jobs of fio wrote: each job is whole, in doubt or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from import_cases import MIB, lines, rendered, source

from mirrorlog.errors import BadInput, BadUse
from mirrorlog.producers.importers import AddressRange, FitOptions


def write_source(folder: Path, content: bytes) -> Path:
    path = folder / "source"
    path.write_bytes(content)
    return path


# Words: a version's header, +file is added, (file is opened, )file is closed, file:length is
# written at byte 0 | the writes, * if the whole volume is dirty in doubt, or an error.
FIO_LOGS = """
3 +v (v v:512 )v                           | 512
2 +v (v v:512 )v                           | 512
3 +v (v v:512 )v 3 +v (v v:4096 )v         | 512 4096     # a rerun, or a section behind stonewall
2 +v (v v:512 )v 3 +v (v v:4096 )v         | 512 4096     # with a newer fio
3 +v (v v:512 )v (v v:1024 )v              | 512 1024     # loops
3 +v (v v:512                              | 512 *        # killed, or still running
3 +v (v                                    | *
3 +v (v v:512 )v (v                        | 512 *
3 +v v:512 )v v:1024                       | 512 1024 *
3 +v +w (v v:512 )v                        | 512          # a file that was never opened
3 +v (v v:512 )v 3 +v (v v:4096            | 512 4096 *
3 +v (v v:512 3 +v (v v:4096 )v            | torn
3 +v (v v:512 3 +v (v v:4096 )v v:8 )v     | torn
3 +v (v v:512 )v+3 +v (v v:4096 )v         | torn         # a piece ends in the middle of a line
2 +v (v v:512 )v+2 +v (v v:4096 )v         | torn
3 +a~b.0 (a~b.0 a~b.0:512 )a~b.0           | 512          # the nbd engine: the job's name
2 +a~b.0 (a~b.0 a~b.0:512 )a~b.0           | 512
3 +write~5 (write~5 write~5:512 )write~5   | 512
2 +open (open open:512 )open               | 512
3 +v~add (v~add v~add:512 )v~add           | 512
"""


def fio_log(text: str) -> bytes:
    """Return the log in the notation of FIO_LOGS; ~ is a blank, and + joins a line to a header."""
    rows, version = [], ""
    actions = {"+": "add", "(": "open", ")": "close"}
    for word in text.replace("+3", " =3").replace("+2", " =2").split():
        if word.strip("=") in ("2", "3"):
            version = word[-1]
            before = rows.pop()[:-4] if word[0] == "=" else ""
            rows.append(f"{before}fio version {version} iolog")
            continue
        name, _, length = word.replace("~", " ").partition(":")
        action = f"{name} write 0 {length}" if length else f"{name[1:]} {actions[name[0]]}"
        rows.append(f"{len(rows)} {action}" if version == "3" else action)
    return lines(rows)


@pytest.mark.parametrize("case", [row for row in FIO_LOGS.splitlines() if row])
def test_each_job_in_fios_log_is_whole_in_doubt_or_refused(tmp_path: Path, case: str) -> None:
    text, expected = (part.strip() for part in case.partition("#")[0].split("|"))
    import_source = source("fio", write_source(tmp_path, fio_log(text)))
    if expected == "torn":
        with pytest.raises(BadInput, match="Several jobs wrote to the log at once") as error:
            rendered(import_source)
        assert "cut the log in front of each header" in error.value.next
        return
    lengths = expected.replace("*", str(MIB)).split()
    assert rendered(import_source).split()[:-1] == [f"w0+{length}" for length in lengths]
    assert ["the whole volume is dirty" in text for text in import_source.warnings] == (
        [True] if "*" in expected else []
    )


@pytest.mark.parametrize("device", ["/dev/ng0n1", "ng12n3", "/dev/nvme0n1"])
def test_a_trim_that_may_have_several_ranges_is_the_whole_volume(
    tmp_path: Path, device: str
) -> None:
    rows = ("write 0 512", "trim 4096 1048576", "trim 4096 1048576", "write 512 512", "close")
    log = ("fio version 3 iolog", f"0 {device} add", *(f"1 {device} {row}" for row in rows))
    import_source = source("fio", write_source(tmp_path, lines(log)))
    if "nvme" in device:
        with pytest.raises(BadInput, match="1048576 bytes from byte 4096 on aren't all inside"):
            rendered(import_source)
    else:
        assert rendered(import_source) == f"w0+512 w0+{MIB} w512+512 |"
        assert "several ranges (num_range)" in import_source.warnings[0]


def test_all_files_of_a_job_that_was_killed_are_dirty_as_a_whole(tmp_path: Path) -> None:
    path = write_source(tmp_path, fio_log("3 +v +w (v v:512 )v (w w:8"))
    with pytest.raises(BadUse, match=r"v, w"):
        rendered(source("fio", path))
    shifted = source("fio", path, AddressRange(offset=4096, length=MIB), device="v")
    assert rendered(shifted, MIB, FitOptions(shift=-4096, clip=True)) == f"w0+{MIB} |"
