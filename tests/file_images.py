"""File systems in images, made without mounting anything and without root, and what they hold."""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mirrorlog.adapters.addresses import open_device
from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.owners import OwnerKind

MIB = 1 << 20
SBIN = "/usr/sbin:/sbin"
"""Where distributions keep mkfs, which users don't have in PATH."""


def need(*tools: str) -> None:
    """Skip the test unless all tools are installed, and pytsk3 is."""
    pytest.importorskip("pytsk3", reason="the extra `files` isn't installed")
    for tool in tools:
        if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:{SBIN}") is None:
            pytest.skip(f"{tool} isn't installed")


def run_tool(*command: str | Path, input: str | None = None) -> str:
    """Run a tool, and return its stdout. Fail the test if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        input=None if input is None else input.encode(),
        capture_output=True,
        check=False,
        env={
            **os.environ,
            "PATH": f"{os.environ.get('PATH', '')}:{SBIN}",
            "MTOOLS_SKIP_CHECK": "1",
        },
    )
    assert done.returncode == 0, (command, done.stdout[-300:], done.stderr[-300:])
    return done.stdout.decode("utf-8", "replace")


def new_image(path: Path, size_bytes: int) -> Path:
    """Make a sparse file."""
    with path.open("wb") as image:
        image.truncate(size_bytes)
    return path


def make_tree(folder: Path, seed: int, files: int = 60) -> None:
    """Make folders and files of all kinds: hard links, links, holes, and names that are awkward."""
    chance = random.Random(seed)
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/shadow").write_bytes(b"root:*:1\n" * 40)
    (folder / "etc/passwd").write_bytes(b"root:x:0\n")
    (folder / "empty").touch()
    folders = [folder, folder / "etc"]
    for number in range(8):
        new = chance.choice(folders) / f"folder {number}"
        new.mkdir()
        folders.append(new)
    for number in range(files):
        path = chance.choice(folders) / f"file{number}"
        path.write_bytes(chance.randbytes(chance.choice([1, 200, 4096, 5000, 40_000, 200_000])))
        if number % 7 == 0:
            os.link(path, chance.choice(folders) / f"link to {number}")
    (folder / "new\nline").write_bytes(b"x" * 5000)
    os.close(os.open(os.fsencode(folder) + b"/not\xffutf8", os.O_CREAT | os.O_WRONLY))
    (folder / os.fsdecode(b"not\xffutf8")).write_bytes(b"y" * 5000)
    (folder / "short").symlink_to("etc/shadow")
    (folder / "long").symlink_to("x" * 300)
    with (folder / "holes").open("wb") as holes:
        for number in range(400):
            holes.seek(number * 16384)
            holes.write(chance.randbytes(4096))


def make_ext(image: Path, tree: Path, *options: str, size_bytes: int = 48 * MIB) -> Path:
    """Make an ext file system with the files of a tree. options: of mke2fs."""
    new_image(image, size_bytes)
    run_tool("mke2fs", "-q", "-F", *options, "-d", tree, image)
    return image


_SOME_DAY = (46 << 9 | 1 << 5 | 1) << 16


def exfat_entries(
    name: str, first_cluster: int, length: int, *, is_folder: bool, valid: int | None = None
) -> bytes:
    """Return the entries of a file whose clusters follow each other.

    valid: bytes of it were written; None for all.

    Source: "exFAT file system specification", 7.4, 7.6 and 7.7.
    """
    text = name.encode("utf-16-le").ljust(30, b"\0")
    attributes = 0x10 if is_folder else 0x20
    file = struct.pack("<BBHHHIII", 0x85, 2, 0, attributes, 0, *[_SOME_DAY] * 3).ljust(32, b"\0")
    stream = struct.pack(
        "<BBBBHHQIIQ",
        0xC0,
        3,
        0,
        len(name),
        0,
        0,
        length if valid is None else valid,
        0,
        first_cluster,
        length,
    )
    entries = bytearray(file + stream + b"\xc1\0" + text)
    checksum = 0
    for at, byte in enumerate(entries):
        if at not in (2, 3):
            checksum = ((checksum << 15 | checksum >> 1) + byte) & 0xFFFF
    entries[2:4] = checksum.to_bytes(2, "little")
    return bytes(entries)


def make_exfat(image: Path, one: bytes, two: bytes, *, valid: int | None = None) -> Path:
    """Make an exFAT file system with the files `file one` and `folder/file two`.

    valid: so many bytes of `file one` count as written; None for all.
    """
    new_image(image, 16 * MIB)
    run_tool("mkfs.exfat", image)
    data = bytearray(image.read_bytes())
    heap = int.from_bytes(data[88:92], "little") * SECTOR
    root = int.from_bytes(data[96:100], "little")
    cluster = SECTOR << data[109]
    folder, first = root + 1, root + 2
    second = first + -(-len(one) // cluster)

    def at(number: int) -> int:
        return heap + (number - 2) * cluster

    def place(number: int, content: bytes) -> None:
        data[at(number) : at(number) + len(content)] = content
        for used in range(number, number + -(-len(content) // cluster)):
            data[heap + (used - 2) // 8] |= 1 << (used - 2) % 8  # the bitmap is the first cluster

    end = next(empty for empty in range(at(root), len(data), 32) if not data[empty])
    entries = exfat_entries("folder", folder, cluster, is_folder=True)
    entries += exfat_entries("file one", first, len(one), is_folder=False, valid=valid)
    data[end : end + len(entries)] = entries
    place(folder, exfat_entries("file two", second, len(two), is_folder=False).ljust(cluster))
    data[at(folder) + 96 : at(folder) + cluster] = bytes(cluster - 96)
    place(first, one)
    place(second, two)
    image.write_bytes(data)
    return image


def debugfs(image: Path, commands: Sequence[str], *, writes: bool = False) -> str:
    """Return what debugfs prints for commands, each in a line of its own."""
    assert all(len(command) < 8000 for command in commands)
    options = ["-w"] if writes else []
    return run_tool("debugfs", *options, "-f", "/dev/stdin", image, input="\n".join(commands))


def inodes_by_debugfs(image: Path, blocks: Sequence[int]) -> dict[int, int | None]:
    """Return the inode that has each block, by debugfs; None where none has."""
    lines = [
        "icheck " + " ".join(map(str, blocks[first : first + 500]))
        for first in range(0, len(blocks), 500)
    ]
    inodes: dict[int, int | None] = {}
    for line in debugfs(image, lines).splitlines():
        if match := re.fullmatch(r"(\d+)\t(?:(\d+)|<block not found>)", line):
            inodes[int(match[1])] = int(match[2]) if match[2] else None
    assert len(inodes) == len(set(blocks)), "debugfs left blocks out"
    return inodes


def free_by_dumpe2fs(image: Path) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of the runs of free blocks, by dumpe2fs."""
    for line in run_tool("dumpe2fs", image).splitlines():
        if line.startswith("  Free blocks: "):
            for run in filter(None, line.removeprefix("  Free blocks: ").split(", ")):
                first, _, last = run.partition("-")
                yield int(first), int(last or first)


def map_of(image: Path) -> FileIndex:
    """Return the map of an image, made in this process."""
    from mirrorlog.consumers.file_names.image_reading import CachedDevice
    from mirrorlog.consumers.file_names.map_builder import MapBuilder
    from mirrorlog.consumers.file_names.tsk_reader import map_device

    with open_device(str(image), writable=False) as device:
        builder = MapBuilder(device.size_bytes)
        map_device(CachedDevice(device), builder, str(image))
        return builder.result(began_at_us=0, read_at_us=0)


SECTOR = 512
TAG = b"tag:"


def tagged(number: int, length: int) -> bytes:
    """Return a file's content in which every sector names the file."""
    sector = (TAG + number.to_bytes(4, "big")).ljust(SECTOR, b".")
    return (sector * (length // SECTOR + 1))[:length]


def tagged_sectors(image: Path) -> dict[int, int]:
    """Return the byte of each sector of an image that names a file, and the file."""
    sectors, end = {}, 0
    with image.open("rb") as file:
        size = image.stat().st_size
        while (start := _next_data(file.fileno(), end)) < size:
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            file.seek(start)
            data = file.read(end - start)
            for at in range(0, len(data), SECTOR):
                if data.startswith(TAG, at):
                    number = data[at + len(TAG) : at + len(TAG) + 4]
                    sectors[start + at] = int.from_bytes(number, "big")
    return sectors


def _next_data(descriptor: int, offset: int) -> int:
    """Return where the next data of a sparse file begins; a large number if there is none."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError:
        return 1 << 62


def files_by_sector(index: FileIndex, sectors: Iterator[int]) -> dict[int, list[bytes] | None]:
    """Return the paths of the file that has each sector; None where no file's content is there."""
    files: dict[int, list[bytes] | None] = {}
    for at in sectors:
        (number,) = index.pieces(np.array([at]), np.array([SECTOR])).owners.tolist()
        (owner,) = index.owners(number)
        files[at] = index.paths(owner) if owner.kind is OwnerKind.FILE else None
    return files


def bytes_of_kind(index: FileIndex, kind: OwnerKind) -> int:
    """Return how many bytes belong to owners of a kind."""
    lengths = np.diff(index.edges).tolist()
    owners = (index.owners(number) for number in index.owner_numbers.tolist())
    return sum(length for length, own in zip(lengths, owners, strict=True) if own[0].kind is kind)
