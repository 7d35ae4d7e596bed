"""Records the workload that `mirrorlog demo` replays.

A 1 GiB disk gets ext4, a source tree and a database, and then files are changed and deleted.

The disk is memory behind an NBD server whose log filter logs every request. The kernel's own ext4
runs on it:

    ext4 (mount) → loop device → nbdfuse → NBD → nbdkit --filter=log memory

It needs root on Linux, and Debian's packages e2fsprogs, libnbd-bin, mount, nbdkit, tar and
util-linux. Run it in a mount namespace of its own, so that nothing stays mounted if it fails:

    unshare --mount python benchmarks/record_demo_trace.py

Two runs differ: the kernel's write-back has its own clock, and the tree is the running Python's
library. The recording in the package is one such run. It holds addresses, kinds and times, and no
data.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Final

from mirrorlog.producers.traces import (
    RequestKind,
    TracedRequest,
    demo_trace_path,
    open_trace,
    summarize_trace,
    write_trace,
)

DISK_SIZE: Final = "1G"
VOLUME: Final = "demo"
TREE_BYTES: Final = 20 << 20
TRIMMED: Final = (128 << 20, 48 << 20)
PROGRAMS: Final = ("fstrim", "losetup", "mke2fs", "mount", "nbdfuse", "nbdkit", "tar", "umount")
START_DEADLINE_S: Final = 20.0

# 2026-11-22 17:19:22.540004 connection=1 Zero id=12 offset=0x200 count=0x2000 trim=1 fua=0 ...
_REQUEST: Final = re.compile(
    r"(?P<when>\S+ \S+) connection=\d+ (?P<kind>Write|Zero|Trim|Flush) id=\d+"
    r"(?: offset=0x(?P<offset>[0-9a-f]+) count=0x(?P<count>[0-9a-f]+).*? fua=(?P<fua>[01]))?"
    r".*\.\.\."
)
_KINDS: Final = {"Write": RequestKind.WRITE, "Zero": RequestKind.ZERO, "Trim": RequestKind.DISCARD}


def run(*command: object) -> str:
    """Run the command, and return its standard output."""
    return subprocess.run(
        [str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def recorded(log: Path) -> Iterator[TracedRequest]:
    """Yield the requests in nbdkit's log, in the order of their beginnings.

    A request with FUA becomes the request and a flush after it.
    """
    start: datetime | None = None
    with log.open() as lines:
        for match in filter(None, map(_REQUEST.fullmatch, (line.rstrip() for line in lines))):
            when = datetime.fromisoformat(match["when"])
            start = start or when
            elapsed = when - start
            time_us = (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
            if match["kind"] != "Flush":
                offset, count = int(match["offset"], 16), int(match["count"], 16)
                yield TracedRequest(VOLUME, _KINDS[match["kind"]], offset, count, time_us)
            if match["kind"] == "Flush" or match["fua"] == "1":
                yield TracedRequest(VOLUME, RequestKind.FLUSH, 0, 0, time_us)


def mounted(cleanup: ExitStack, folder: Path) -> Path:
    """Mount ext4 on a disk whose requests are logged to `folder`/log, and return the mount point.

    `cleanup` unmounts it again.
    """
    disk, tree = folder / "nbd" / "disk", folder / "tree"
    disk.parent.mkdir()
    tree.mkdir()
    server = [
        "nbdkit",
        "--exit-with-parent",
        "--filter=log",
        "memory",
        DISK_SIZE,
        f"logfile={folder / 'log'}",
    ]
    fuse = subprocess.Popen(["nbdfuse", str(disk), "[", *server, "]"])
    cleanup.callback(fuse.wait, timeout=START_DEADLINE_S)
    deadline = time.monotonic() + START_DEADLINE_S
    while not disk.exists():
        if fuse.poll() is not None or time.monotonic() > deadline:
            fuse.terminate()
            sys.exit("nbdfuse didn't provide a disk")
        time.sleep(0.05)
    cleanup.callback(run, "umount", disk.parent)
    loop = run("losetup", "--find", "--show", disk)
    cleanup.callback(run, "losetup", "--detach", loop)
    # Lay everything out at once, without the kernel's lazy initialization. Don't discard the empty
    # disk, which would change every block.
    layout = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
    run("mke2fs", "-q", "-t", "ext4", "-J", "size=16", "-N", 16384, "-E", layout, loop)
    run("mount", "-o", "noatime", loop, tree)
    cleanup.callback(run, "umount", tree)
    return tree


def unpack_sources(tree: Path) -> None:
    """Unpack a tree of many small files: TREE_BYTES of the running Python's library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    names, size_bytes = [], 0
    for path in sorted(library.rglob("*.py")):
        size_bytes += path.stat().st_size
        if size_bytes > TREE_BYTES:
            break
        names.append(str(path.relative_to(library)))
    archive = tree / "sources.tar"
    run("tar", "-C", library, "-cf", archive, *names)
    run("tar", "-C", tree, "-xf", archive)
    os.sync()


def run_database(tree: Path, rng: random.Random) -> None:
    """Commit durable transactions in a database one after the other, and then compact it."""
    with closing(sqlite3.connect(tree / "orders.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, item TEXT, state TEXT)"
        )
        database.execute("CREATE INDEX of_customer ON orders (customer)")
        for _ in range(450):
            database.execute("BEGIN")
            for _ in range(rng.randrange(5, 60)):
                row = (rng.randrange(5_000), rng.randbytes(rng.randrange(20, 200)).hex(), "open")
                database.execute("INSERT INTO orders (customer, item, state) VALUES (?, ?, ?)", row)
            database.execute(
                "UPDATE orders SET state = 'paid' WHERE customer = ?", (rng.randrange(5_000),)
            )
            database.execute("COMMIT")
        database.execute("DELETE FROM orders WHERE id % 3 = 0")
        database.execute("VACUUM")


def change_files(tree: Path, rng: random.Random) -> None:
    """Delete files, discard a part of their space, edit others, and append durable log lines."""
    (tree / "sources.tar").unlink()
    files = sorted(path for path in tree.rglob("*.py") if path.is_file())
    for path in rng.sample(files, len(files) // 3):
        path.unlink()
        files.remove(path)
    os.sync()
    run("fstrim", "--offset", TRIMMED[0], "--length", TRIMMED[1], tree)
    for path in rng.sample(files, 60):
        with path.open("r+b", buffering=0) as file:
            file.seek(rng.randrange(path.stat().st_size + 1))
            file.write(rng.randbytes(3000))
            os.fsync(file.fileno())
    with (tree / "service.log").open("ab", buffering=0) as log:
        for _ in range(150):
            log.write(rng.randbytes(rng.randrange(100, 900)))
            os.fdatasync(log.fileno())


def main() -> None:
    """Record the workload, and write the recording to the package or to --output."""
    parser = argparse.ArgumentParser(
        description="Record the workload that `mirrorlog demo` replays."
    )
    parser.add_argument("--output", type=Path, default=demo_trace_path())
    output: Path = parser.parse_args().output
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        sys.exit(
            f"missing programs: {', '.join(missing)}; the docstring of this file names the packages"
        )
    if os.geteuid():
        sys.exit("mounting needs root: unshare --mount python benchmarks/record_demo_trace.py")
    rng = random.Random(20_030_101)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ExitStack() as cleanup:
            tree = mounted(cleanup, folder)
            unpack_sources(tree)
            run_database(tree, rng)
            change_files(tree, rng)
        write_trace(output, recorded(folder / "log"))
    print(f"{output}: {output.stat().st_size:,} bytes; {summarize_trace(open_trace(output))}")


if __name__ == "__main__":
    main()
