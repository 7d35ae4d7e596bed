"""Which file becomes the primary of a volume: none is made unasked, and none is taken twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from nbd_servers import Nbdkit, skip_without
from notation import volume

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.cli.support.primaries import (
    PrimaryChoice,
    check_unused,
    make_or_check,
    marked,
)
from mirrorlog.domain.primary_marks import PrimaryMark, new_mark
from mirrorlog.domain.volumes import Volume, VolumeState
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.devices import BlockDevice

SIZE = 4096


def choice(path: Path, **options: bool) -> PrimaryChoice:
    return PrimaryChoice(path.as_uri(), **options)


def test_a_primary_that_does_not_exist_is_made_only_if_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "mistyped" / "v.img"
    with pytest.raises(BadUse, match=r"no primary at this address.*--create-primary"):
        make_or_check(choice(path), "v", SIZE)
    with pytest.raises(BadUse, match=r"the folder of the primary doesn't exist.*mount"):
        make_or_check(choice(path, create=True), "v", SIZE)
    assert not path.parent.exists()
    assert make_or_check(choice(path, create=True, with_parents=True), "v", SIZE)
    assert path.stat().st_size == SIZE
    assert make_or_check(choice(path), "v", SIZE)
    path.write_bytes(b"x" * SIZE)
    assert not make_or_check(choice(path), "v", SIZE)
    with pytest.raises(BadUse, match=f"the primary has {SIZE} bytes, the volume {SIZE + 1}"):
        make_or_check(choice(path), "v", SIZE + 1)


# How the second volume's primary is named | how the first volume's is | what the first one is
TAKEN = """
v.img        | v.img        | active  | taken
link.img     | v.img        | active  | taken
v.img        | hard.img     | active  | taken
./x/../v.img | v.img        | active  | taken
other.img    | v.img        | active  | free
v.img        | v.img        | retired | free
v.img        | elsewhere    | active  | free
"""


@pytest.mark.parametrize("case", TAKEN.strip().splitlines())
def test_one_primary_under_two_names_is_found(tmp_path: Path, case: str) -> None:
    named, first, state, expected = (word.strip() for word in case.split("|"))
    for name in ("v.img", "other.img"):
        FileDevice.create(tmp_path / name, SIZE).close()
    (tmp_path / "x").mkdir()
    (tmp_path / "link.img").symlink_to(tmp_path / "v.img")
    (tmp_path / "hard.img").hardlink_to(tmp_path / "v.img")
    known = volume("v", SIZE, primary=(tmp_path / first).as_uri())
    if state == "retired":
        known = replace(known, state=VolumeState.RETIRED)
    marks = PrimaryMarkFiles(tmp_path / "primaries")
    wanted = PrimaryChoice(str(tmp_path / named))
    if expected == "free":
        check_unused(wanted, "w", {"v": known}, marks)
    else:
        with pytest.raises(BadUse, match="this is the primary of volume 'v'"):
            check_unused(wanted, "w", {"v": known}, marks)


# The volume in the mark, and what the cluster knows of it | what is said, and whether it may be
# taken with --reuse-primary
MARKED = """
v, active here, elsewhere | of volume 'v', says its mark     | no
v, retired                | is retired, or isn't known       | yes
v, created again          | is retired, or isn't known       | yes
v, unknown                | is retired, or isn't known       | yes
"""


@pytest.mark.parametrize("case", MARKED.strip().splitlines())
def test_a_marked_primary_is_not_taken_unasked(tmp_path: Path, case: str) -> None:
    what, text, reusable = (word.strip() for word in case.split("|"))
    path = tmp_path / "v.img"
    FileDevice.create(path, SIZE).close()
    known = volume("v", SIZE, primary=(tmp_path / "elsewhere").as_uri(), created_at_us=1)
    marks = PrimaryMarkFiles(tmp_path / "primaries")
    with open_device(str(path), writable=False) as device:
        marks.write([(device, new_mark(known, device.identity.lasting, str(uuid4())))])
    volumes: dict[str, Volume] = {} if "unknown" in what else {"v": known}
    if "retired" in what:
        volumes["v"] = replace(known, state=VolumeState.RETIRED)
    if "again" in what:
        volumes["v"] = replace(known, created_at_us=2)
    with pytest.raises(BadUse, match=text):
        check_unused(choice(path), "w", volumes, marks)
    if reusable == "yes":
        check_unused(choice(path, reuse=True), "w", volumes, marks)
    else:
        with pytest.raises(BadUse, match=text):
            check_unused(choice(path, reuse=True), "w", volumes, marks)


def test_a_mark_goes_again_if_its_volume_could_not_be_published(tmp_path: Path) -> None:
    path = tmp_path / "v.img"
    FileDevice.create(path, SIZE).close()
    marks = PrimaryMarkFiles(tmp_path / "primaries")

    def mark_of(device: BlockDevice) -> PrimaryMark:
        return new_mark(volume("v", SIZE), device.identity.lasting, str(uuid4()))

    with pytest.raises(RuntimeError), marked(choice(path), marks, mark_of):
        raise RuntimeError
    with open_device(str(path), writable=False) as device:
        assert marks.read(device) is None
        with marked(choice(path), marks, mark_of):
            assert marks.read(device) is not None
        assert marks.read(device) is not None


def test_an_nbd_export_may_be_a_primary(tmp_path: Path) -> None:
    """Sites read it, and whoever writes to it tells mirrorlog of that in another way."""
    server = Nbdkit(tmp_path)
    skip_without(server)
    FileDevice.create(server.image, SIZE).close()
    server.start()
    marks = PrimaryMarkFiles(tmp_path / "primaries")
    export = PrimaryChoice(server.uri, create=True)
    try:
        assert make_or_check(export, "v", SIZE)
        with pytest.raises(BadUse, match=f"the primary has {SIZE} bytes"):
            make_or_check(export, "v", SIZE + 1)
        others = {name: volume(name, SIZE, primary="nbd://127.0.0.1:1/x") for name in ("a", "b")}
        check_unused(export, "v", others, marks)
        others["c"] = volume("c", SIZE, primary=server.uri)
        with pytest.raises(BadUse, match="the primary of volume 'c'"):
            check_unused(export, "v", others, marks)
        with marked(export, marks, lambda _: new_mark(volume(), None, str(uuid4()))):
            pass
    finally:
        server.kill()
    with pytest.raises(DeviceFailed, match="connecting failed"):
        make_or_check(export, "v", SIZE)
