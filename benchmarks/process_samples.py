"""Samples of what processes and folders take, read from /proc (proc(5)) and the file system."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_BLOCK_BYTES = 512
"""The unit of st_blocks (stat(2))."""


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """What a process and all its children take together.

    rss_bytes: resident memory, in which shared pages count for each process. anonymous_bytes: the
    part of it that no file backs, with each shared page divided among those that share it: heaps
    and stacks, but no code. cpu_s: user and system time so far.
    """

    rss_bytes: int
    anonymous_bytes: int
    descriptors: int
    threads: int
    cpu_s: float


def sample_process(pid: int, *, with_children: bool = True) -> ProcessSample:
    """Return a sample of the process and its children. A child that ends meanwhile is left out.

    Errors: psutil.NoSuchProcess if the process has ended.
    """
    process = psutil.Process(pid)
    samples = [_sample(pid)]
    for child in process.children(recursive=True) if with_children else ():
        try:
            samples.append(_sample(child.pid))
        except (OSError, psutil.Error):
            continue
    return ProcessSample(
        rss_bytes=sum(sample.rss_bytes for sample in samples),
        anonymous_bytes=sum(sample.anonymous_bytes for sample in samples),
        descriptors=sum(sample.descriptors for sample in samples),
        threads=sum(sample.threads for sample in samples),
        cpu_s=round(sum(sample.cpu_s for sample in samples), 2),
    )


def _sample(pid: int) -> ProcessSample:
    folder = Path(f"/proc/{pid}")
    rollup = (folder / "smaps_rollup").read_text()
    anonymous_kib = next(
        int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon:")
    )
    times = psutil.Process(pid).cpu_times()
    return ProcessSample(
        rss_bytes=int((folder / "statm").read_text().split()[1]) * _PAGE_BYTES,
        anonymous_bytes=anonymous_kib * 1024,
        descriptors=sum(1 for _ in (folder / "fd").iterdir()),
        threads=sum(1 for _ in (folder / "task").iterdir()),
        cpu_s=times.user + times.system,
    )


def disk_bytes(folder: Path) -> int:
    """Return what the files of a folder take on the disk, as `du` counts. Holes take nothing.

    A file that is removed meanwhile is left out.
    """
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(path) / name).st_blocks * _BLOCK_BYTES
            except FileNotFoundError:
                continue
    return total
