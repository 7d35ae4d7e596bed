"""Files out of file systems: byte for byte, with their times, and nothing that isn't in them."""

from __future__ import annotations

import os
import random
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from backup_images import write_whole
from file_images import MIB, debugfs, make_exfat, make_ext, make_tree, need, new_image, run_tool

from mirrorlog.adapters.addresses import open_device
from mirrorlog.consumers.backup.files.restoring import write_records
from mirrorlog.consumers.backup.files.tree_writer import RestoredFiles, WriteOptions
from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader

ALL: WriteOptions = WriteOptions(links=True)


def restored(
    image: Path,
    target: Path,
    *paths: str | bytes,
    partition: int | None = None,
    options: WriteOptions = ALL,
) -> tuple[RestoredFiles, dict[bytes, str]]:
    """Restore paths of an image. Return what came of it, and the problems by path."""
    from mirrorlog.consumers.backup.files.tree_reader import tree_records
    from mirrorlog.consumers.file_names.image_reading import CachedDevice

    problems: dict[bytes, str] = {}
    with open_device(str(image), writable=False) as device:
        wanted = [os.fsencode(path) for path in paths]
        records = list(tree_records(CachedDevice(device), wanted, partition))
        result = write_records(records, target, options, problems.__setitem__)
    assert result.problem_count == len(problems)
    return result, problems


def paths_in(folder: Path) -> list[Path]:
    """Return all that is in a folder. Path.rglob looks behind links, which may be too long."""
    return [
        Path(above, name)
        for above, folders, files in os.walk(folder)
        for name in (*folders, *files)
    ]


def contents(folder: Path) -> dict[bytes, object]:
    """Return by path what is in a folder: bytes of files, targets of links, None for folders."""
    inside: dict[bytes, object] = {}
    for path in paths_in(folder):
        short = b"/" + os.fsencode(path.relative_to(folder))
        if path.is_symlink():
            inside[short] = ("link", os.fsencode(path.readlink()))
        elif path.is_dir():
            inside[short] = None
        else:
            inside[short] = path.read_bytes()
    return inside


def facts(folder: Path) -> dict[bytes, tuple[int, int]]:
    """Return by path of a file or folder its mode and its time."""
    inside = {}
    for path in (folder, *paths_in(folder)):
        if not path.is_symlink():
            its = path.stat()
            name = os.fsencode(path.relative_to(folder))
            inside[name] = stat.S_IMODE(its.st_mode), its.st_mtime_ns
    return inside


@pytest.mark.parametrize(
    "options", ["-t ext4", "-t ext4 -b 1024 -O inline_data", "-t ext2 -b 2048"]
)
def test_a_whole_ext_file_system_is_the_tree_of_which_it_was_made(
    options: str, tmp_path: Path
) -> None:
    need("mke2fs")
    tree, target = tmp_path / "tree", tmp_path / "target"
    make_tree(tree, seed=3)
    (tree / "etc/shadow").chmod(0o640)
    (tree / "etc").chmod(0o750)
    for number, path in enumerate([*tree.glob("etc/*"), *tree.glob("f*"), tree / "etc"]):
        os.utime(path, ns=(1, 1_000_000_000_000_000_000 + number * 1_000_000_000))
    image = make_ext(tmp_path / "image", tree, *options.split())
    result, problems = restored(image, target, "/")
    assert problems == {}
    (target / "lost+found").rmdir()
    assert contents(target) == contents(tree)
    ours, theirs = facts(target), facts(tree)
    for path in (b"etc", b"etc/shadow", b"etc/passwd", b"file1", b"folder 0"):
        if path in theirs:
            assert ours[path][0] == theirs[path][0], path
    assert ours[b"etc/shadow"][1] // 10**9 == theirs[b"etc/shadow"][1] // 10**9
    assert ours[b"etc"][1] // 10**9 == theirs[b"etc"][1] // 10**9
    assert result.files == sum(isinstance(one, bytes) for one in contents(tree).values())
    holes = (target / "holes").stat()
    assert holes.st_size == (tree / "holes").stat().st_size
    assert holes.st_blocks * 512 <= 400 * 4096 + 65536


def test_what_was_asked_for_is_restored_under_its_whole_path(tmp_path: Path) -> None:
    need("mke2fs")
    tree, target = tmp_path / "tree", tmp_path / "target"
    make_tree(tree, seed=4)
    image = make_ext(tmp_path / "image", tree)
    result, problems = restored(image, target, "/etc/shadow", "folder 0", "//etc/", b"/not\xffutf8")
    assert problems == {}
    wanted = {
        path: its
        for path, its in contents(tree).items()
        if path in (b"/etc", b"/folder 0", b"/not\xffutf8")
        or path.startswith((b"/etc/", b"/folder 0/"))
    }
    assert contents(target) == wanted
    assert result.folders == sum(its is None for its in wanted.values())


def test_a_path_that_isnt_there_is_a_problem_and_the_others_are_restored(tmp_path: Path) -> None:
    need("mke2fs")
    tree, target = tmp_path / "tree", tmp_path / "target"
    make_tree(tree, seed=4)
    (tree / "to etc").symlink_to("etc")
    image = make_ext(tmp_path / "image", tree)
    _, problems = restored(image, target, "/nothing", "/etc/shadow/x", "/to etc/passwd", "/empty")
    assert problems == {
        b"/nothing": "there is no such file",
        b"/etc/shadow/x": "/etc/shadow is no folder",
        b"/to etc/passwd": "/to etc is a symbolic link, which isn't followed",
    }
    assert contents(target) == {b"/empty": b""}


def test_links_are_restored_when_they_are_asked_for_and_are_problems_otherwise(
    tmp_path: Path,
) -> None:
    need("mke2fs")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "out").symlink_to("/etc/hostname")
    (tree / "long").symlink_to("y" * 300)
    image = make_ext(tmp_path / "image", tree)
    result, problems = restored(image, tmp_path / "with", "/out", "/long")
    assert (problems, result.links) == ({}, 2)
    assert contents(tmp_path / "with") == contents(tree)
    _, problems = restored(image, tmp_path / "without", "/", options=WriteOptions())
    assert set(problems) == {b"/out", b"/long"}
    assert "/etc/hostname" in problems[b"/out"]
    assert contents(tmp_path / "without") == {b"/lost+found": None}


def test_what_is_no_file_is_a_problem(tmp_path: Path) -> None:
    need("mke2fs")
    tree = tmp_path / "tree"
    tree.mkdir()
    os.mkfifo(tree / "pipe")
    (tree / "file").write_bytes(b"x")
    image = make_ext(tmp_path / "image", tree)
    _, problems = restored(image, tmp_path / "target", "/")
    assert problems == {b"/pipe": "it is a FIFO"}


def test_blocks_that_were_reserved_and_never_written_are_zeros(tmp_path: Path) -> None:
    need("mke2fs", "debugfs")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "old").write_bytes(b"secret" * 20_000)
    image = make_ext(tmp_path / "image", tree, "-t", "ext4", "-b", "4096")
    debugfs(image, ["rm old", "write /dev/null new", "fallocate new 0 40", "sif new size 150000"],
        writes=True)  # fmt: skip
    assert image.read_bytes().count(b"secretsecret") > 1000
    _, problems = restored(image, tmp_path / "target", "/new")
    assert problems == {}
    assert (tmp_path / "target/new").read_bytes() == bytes(150_000)


def test_a_file_system_that_wasnt_unmounted_is_said(tmp_path: Path) -> None:
    need("mke2fs", "debugfs")
    tree = tmp_path / "tree"
    make_tree(tree, seed=4)
    image = make_ext(tmp_path / "image", tree)
    assert restored(image, tmp_path / "clean", "/empty")[0].notes == []
    debugfs(image, ["feature needs_recovery"], writes=True)
    (note,) = restored(image, tmp_path / "dirty", "/empty")[0].notes
    assert "backup mount" in note


def put_fat(image: Path, tree: Path) -> None:
    for path in sorted(paths_in(tree)):
        name = f"::/{path.relative_to(tree)}"
        if path.is_dir():
            run_tool("mmd", "-i", image, name)
        else:
            run_tool("mcopy", "-m", "-i", image, path, name)


def plain_tree(tree: Path) -> None:
    chance = random.Random(7)
    (tree / "a folder/below").mkdir(parents=True)
    for name in ("one", "a folder/two", "a folder/below/three.txt", "Größe"):
        (tree / name).write_bytes(chance.randbytes(chance.choice([0, 100, 70_000])))
    (tree / "zeros").write_bytes(bytes(50_000) + b"x")
    for path in (*paths_in(tree), tree):
        os.utime(path, (10**9, 10**9))


@pytest.mark.parametrize("kind", ["FAT12", "FAT16", "FAT32", "NTFS", "HFS+"])
def test_other_file_systems(kind: str, tmp_path: Path) -> None:
    tree, target, image = tmp_path / "tree", tmp_path / "target", tmp_path / "image"
    plain_tree(tree)
    if kind.startswith("FAT"):
        need("mkfs.vfat", "mcopy", "mmd")
        new_image(image, (4 if kind == "FAT12" else 40) * MIB)
        run_tool("mkfs.vfat", "-F", kind[3:], "-n", "LABEL", image)
        put_fat(image, tree)
    elif kind == "NTFS":
        need("mkntfs", "ntfscp")
        new_image(image, 24 * MIB)
        run_tool("mkntfs", "-q", "-F", image)
        for folder in sorted(path for path in paths_in(tree) if path.is_dir()):
            for path in folder.iterdir():
                if path.is_file():
                    path.rename(tree / path.name)
        for folder in sorted((path for path in paths_in(tree) if path.is_dir()), reverse=True):
            folder.rmdir()  # ntfscp makes no folders
        for path in tree.iterdir():
            run_tool("ntfscp", "-q", image, path, path.name)
    else:
        need("xorrisofs")
        run_tool("xorrisofs", "-quiet", "-hfsplus", "-o", image, tree)
    result, problems = restored(image, target, "/")
    assert problems == {}
    composed = {
        unicodedata.normalize("NFC", path.decode()).encode(): its
        for path, its in contents(target).items()
    }  # HFS+ keeps names decomposed
    assert composed == contents(tree)
    assert result.files == 5
    if kind.startswith("FAT"):
        assert (target / "one").stat().st_mtime == 10**9
    again, problems = restored(image, tmp_path / "again", "/ONE" if kind != "NTFS" else "/Zeros")
    assert (problems, again.files) == ({}, 1)
    _, problems = restored(image, target, "/one")
    assert problems == {b"/one": "something of this name exists"}


def test_exfat(tmp_path: Path) -> None:
    need("mkfs.exfat")
    chance = random.Random(5)
    one, two = chance.randbytes(5000), chance.randbytes(20_000)
    image = make_exfat(tmp_path / "image", one, two)
    _, problems = restored(image, tmp_path / "target", "/")
    assert problems == {}
    assert contents(tmp_path / "target") == {
        b"/file one": one,
        b"/folder": None,
        b"/folder/file two": two,
    }


def test_of_an_exfat_file_what_was_never_written_is_zeros(tmp_path: Path) -> None:
    need("mkfs.exfat")
    one = random.Random(5).randbytes(9000)
    image = make_exfat(tmp_path / "image", one, b"x", valid=3000)
    _, problems = restored(image, tmp_path / "target", "/file one")
    assert problems == {}
    assert (tmp_path / "target/file one").read_bytes() == one[:3000] + bytes(6000)


def test_named_streams_are_problems(tmp_path: Path) -> None:
    need("mkntfs", "ntfscp")
    image = new_image(tmp_path / "image", 24 * MIB)
    run_tool("mkntfs", "-q", "-F", image)
    (tmp_path / "file").write_bytes(b"content" * 1000)
    run_tool("ntfscp", "-q", image, tmp_path / "file", "file")
    run_tool("ntfscp", "-q", "-N", "note", image, tmp_path / "file", "file")
    _, problems = restored(image, tmp_path / "target", "/file")
    assert problems == {b"/file": "its stream isn't restored: note"}
    assert (tmp_path / "target/file").read_bytes() == b"content" * 1000


def test_a_file_in_several_partitions_must_be_named_with_one(tmp_path: Path) -> None:
    need("mke2fs", "sfdisk")
    image = partitioned(tmp_path, lambda number: b"of partition %d" % number)
    _, problems = restored(image, tmp_path / "target", "/file")
    assert problems == {b"/file": "several partitions have it (1, 2): name one (--partition)"}
    assert restored(image, tmp_path / "target", "/file", partition=2)[1] == {}
    assert (tmp_path / "target/file").read_bytes() == b"of partition 2"
    assert restored(image, tmp_path / "only", "/only 1")[1] == {}


def partitioned(folder: Path, content: Callable[[int], bytes]) -> Path:
    """Make an image with two ext file systems, in partitions."""
    image = new_image(folder / "image", 20 * MIB)
    run_tool("sfdisk", "-q", image, input="label: gpt\nsize=8MiB\nsize=8MiB\n")
    for number in (1, 2):
        tree = folder / f"tree{number}"
        tree.mkdir()
        (tree / "file").write_bytes(content(number))
        (tree / f"only {number}").touch()
        part = make_ext(folder / f"part{number}", tree, size_bytes=8 * MIB)
        with image.open("r+b") as file:
            file.seek(MIB + (number - 1) * 8 * MIB)
            file.write(part.read_bytes())
    return image


def test_where_no_file_system_can_be_read_it_is_said_what_is_there(tmp_path: Path) -> None:
    need()
    image = new_image(tmp_path / "image", 4 * MIB)
    with image.open("r+b") as file:
        file.write(b"LUKS\xba\xbe")
    result, problems = restored(image, tmp_path / "target", "/file")
    assert problems == {b"/file": "there is no file system here that can be read"}
    assert "LUKS" in result.notes[0]


def test_a_flipped_byte_of_an_image_costs_the_files_that_have_it_and_no_others(
    tmp_path: Path,
) -> None:
    """What is read is held against the digests: a wrong byte is never restored."""
    need("mke2fs")
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("good", "bad"):
        (tree / name).write_bytes(random.Random(name).randbytes(9 * MIB))
    raw = make_ext(tmp_path / "raw", tree, "-t", "ext4", size_bytes=32 * MIB).read_bytes()
    image = tmp_path / "point.qcow2"
    written = write_whole(image, raw)
    data = bytearray(image.read_bytes())
    data[data.index((tree / "bad").read_bytes()[5 * MIB :][:512])] ^= 1
    image.write_bytes(data)
    from mirrorlog.consumers.backup.files.tree_reader import tree_records
    from mirrorlog.consumers.file_names.image_reading import CachedDevice

    problems: dict[bytes, str] = {}
    with ChainReader([image], digests=[written.digests]) as device:
        target = tmp_path / "target"
        records = tree_records(CachedDevice(device), [b"/good", b"/bad"])
        write_records(records, target, ALL, problems.__setitem__)
    assert set(problems) == {b"/bad"}
    assert "of an image are damaged" in problems[b"/bad"]
    assert contents(target) == {b"/good": (tree / "good").read_bytes()}


def test_damage_is_a_problem_of_the_files_that_have_it(tmp_path: Path) -> None:
    need("mke2fs", "debugfs")
    tree, target = tmp_path / "tree", tmp_path / "target"
    tree.mkdir()
    for name in ("good", "bad"):
        (tree / name).write_bytes(random.Random(name).randbytes(60_000))
    image = make_ext(tmp_path / "image", tree, "-t", "ext4")
    debugfs(image, ["sif bad block[5] 0x7fffffff"], writes=True)  # where its extent is
    result, problems = restored(image, target, "/good", "/bad")
    assert set(problems) == {b"/bad"}
    assert contents(target) == {b"/good": (tree / "good").read_bytes()}
    assert result.files == 1
