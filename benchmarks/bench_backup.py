"""Measures incremental backups and restores, beside a bare copy of the blocks and other tools.

    python benchmarks/bench_backup.py [--cases bare_copy,…] [--repeat 30] [--short] [--save]

A volume of 4 GiB of random bytes, which is in the page cache. Before each round, 10,485 random
blocks of 4 KiB (1 %) change. The cases of a round take turns in who begins. Each ends when all is
durable, on the same file system. The ratios are those of medians to `bare_copy` of the same rounds.

- bare_copy: pread of each changed block, pwrite to the next place of a new file, then fsync.
- write_image: the image of these blocks alone.
- add_point: a whole incremental: the repository is opened and locked, the image written, put in its
  place, and its manifest written. Each round makes the chain of images longer by one, up to 31.
- restic, borg: `restic backup` and `borg create` of the whole file with 1 % changed, after a first
  backup that isn't measured. borg_fixed: borg with chunks of 64 KiB. Once each.
- restore: the last point, 31 images deep, to a new sparse file, as `mirrorlog restore` does it,
  which first compares all images with their digests. restore_qemu_img: the same by `qemu-img
  convert`; restore_cp: `cp --sparse=always` of the volume itself. Once each.
- open_chain: the map of all 31 images is read.
- recording: 30 incrementals of a real recording, in backup_recording.py: what they store, no times.

What was restored is compared with the volume. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from backup_points import BLOCK_BYTES, VOLUME, Points
from backup_recording import recorded_intervals, recording_path
from backup_volume import OTHER_TOOLS, ChangingVolume, OtherTool, copy_bare, stored_bytes
from bench_node import log_line
from case_options import add_case_options, chosen_cases, data_folder
from pinned import ProgramFailed
from results import machine, report_result
from site_cycle import site_settings
from tool_commands import run_command

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.consumers.backup.qcow2.image_writing import write_image
from mirrorlog.consumers.backup.restoring import open_target, restore
from mirrorlog.consumers.range_reads import DeviceReader
from mirrorlog.domain.bitmaps import BlockSet

VOLUME_BYTES: Final = 4 << 30
CHANGED_SHARE: Final = 100
"""One in so many blocks changes."""
CHAIN_IMAGES: Final = 31
"""A full point and 30 incremental ones."""
OWN_CASES: Final = ("bare_copy", "write_image", "add_point")
RESTORE_CASES: Final = ("open_chain", "restore", "restore_qemu_img", "restore_cp")
CASES: Final = (*OWN_CASES, *RESTORE_CASES, "recording", *(tool.name for tool in OTHER_TOOLS))


@dataclass(slots=True)
class BackupBench:
    """The volume and its points; of each run of a case the seconds, elapsed and of CPU time."""

    folder: Path
    volume: ChangingVolume
    points: Points
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu_seconds: dict[str, list[float]] = field(default_factory=dict)
    stored_to_changed: dict[str, float] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note the time of a run, also that of child processes which ended in it."""
        began_s, before_s = time.perf_counter(), _cpu_s()
        yield
        elapsed_s, cpu_s = time.perf_counter() - began_s, _cpu_s() - before_s
        self.seconds.setdefault(name, []).append(elapsed_s)
        self.cpu_seconds.setdefault(name, []).append(cpu_s)
        log_line(f"{name:18} {elapsed_s:8.3f} s, {cpu_s:8.3f} s of CPU time")

    def note_stored(self, name: str, stored: int) -> None:
        """Note what the last run of a case took on the disk."""
        changed_bytes = len(self.volume.changed) * BLOCK_BYTES
        self.stored_to_changed[name] = round(stored / changed_bytes, 4)


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def run_round(bench: BackupBench, names: Sequence[str], number: int) -> None:
    """Change the volume, and run each case once."""
    bench.volume.change(bench.volume.blocks // CHANGED_SHARE)
    blocks = BlockSet(bench.volume.changed.tolist())
    first = number % len(names)
    for name in (*names[first:], *names[:first]):
        target = bench.folder / name
        with FileDevice(bench.volume.path, writable=False) as device:
            source = DeviceReader(device)
            with bench.timed(name):
                if name == "bare_copy":
                    copy_bare(bench.volume, target)
                elif name == "write_image":
                    write_image(target, bench.points.plan(blocks, "base.qcow2"), source)
                else:
                    bench.points.add(blocks, source)
        path = target if name != "add_point" else bench.points.image(-1)
        bench.note_stored(name, path.stat().st_blocks * 512)
        target.unlink(missing_ok=True)


def restore_point(bench: BackupBench, target: Path) -> None:
    """Restore the last point to a new sparse file, as `mirrorlog restore` does."""
    settings = site_settings()
    marks = PrimaryMarkFiles(bench.folder / "marks")
    with (
        bench.points.opened(-1, reads_all=True) as point,
        open_target(str(target), point.size_bytes, marks, may_overwrite=False) as file,
    ):
        restore(
            point,
            file,
            volume=VOLUME,
            block_size=BLOCK_BYTES,
            tasks=TaskThreads(settings.site_copy_threads),
        )


def restore_by_tool(*command: str | Path) -> None:
    """Run a tool, the last of whose arguments is the file that it makes, then make that durable."""
    run_command([str(word) for word in command])
    with Path(command[-1]).open("r+b", 0) as file:
        os.fsync(file.fileno())


def run_restores(bench: BackupBench, names: Sequence[str]) -> None:
    """Restore the last point once in each way, and compare it with the volume."""
    last, target = bench.points.image(-1), bench.folder / "restored"
    ways: dict[str, Callable[[], None]] = {
        "restore": lambda: restore_point(bench, target),
        "restore_qemu_img": lambda: restore_by_tool(
            "qemu-img", "convert", "-O", "raw", last, target
        ),
        "restore_cp": lambda: restore_by_tool("cp", "--sparse=always", bench.volume.path, target),
    }
    for name in names:
        if name == "open_chain":
            with bench.timed(name), bench.points.opened(-1):
                pass
            continue
        with bench.timed(name):
            ways[name]()
        if subprocess.run(["cmp", "-s", bench.volume.path, target], check=False).returncode:
            bench.failures.append(f"{name}: what was restored differs from the volume")
        target.unlink()


def run_tool(bench: BackupBench, tool: OtherTool) -> None:
    """Back up the whole file with another tool, after 1 % of it changed."""
    folder = bench.folder / tool.name
    folder.mkdir()
    for command in tool.first:
        tool.run(command, bench.volume, folder)
    before = stored_bytes(folder / "repository")
    bench.volume.change(bench.volume.blocks // CHANGED_SHARE)
    with bench.timed(tool.name):
        tool.run(tool.again, bench.volume, folder)
    bench.note_stored(tool.name, stored_bytes(folder / "repository") - before)
    shutil.rmtree(folder)


def main() -> int:
    """Return exit code 1 if a case failed."""
    parser = argparse.ArgumentParser(description="How fast backups are, and what they store.")
    add_case_options(parser, CASES, short="three rounds with a volume of 64 MiB")
    parser.set_defaults(repeat=CHAIN_IMAGES - 1)
    arguments = parser.parse_args()
    names = chosen_cases(parser, arguments, CASES)
    repeat, size_bytes = (3, 64 << 20) if arguments.short else (arguments.repeat, VOLUME_BYTES)
    if not 0 < repeat < CHAIN_IMAGES:
        parser.error(f"--repeat is 1 to {CHAIN_IMAGES - 1}")
    intervals: dict[str, Any] = {}
    with data_folder(arguments) as folder:
        bench = _prepare(folder, size_bytes)
        names = [name for name in names if _is_possible(bench, name)]
        own = [name for name in names if name in OWN_CASES]
        for number in range(repeat if own else 0):
            run_round(bench, own, number)
        try:
            restores = [name for name in names if name in RESTORE_CASES]
            run_restores(bench, restores)
            if "recording" in names and (path := recording_path()) is not None:
                intervals = recorded_intervals(path, folder)
            for tool in OTHER_TOOLS:
                if tool.name in names:
                    run_tool(bench, tool)
        except ProgramFailed as error:
            bench.failures.append(str(error))
    for line in bench.skipped:
        log_line(f"######## not measured here: {line}")
    is_part = set(arguments.cases.split(",")) != set(CASES)
    result = _result(bench, intervals, repeat, short=arguments.short)
    return report_result(result, save=arguments.save and not is_part)


def _prepare(folder: Path, size_bytes: int) -> BackupBench:
    log_line("writing the volume, and its first point")
    volume = ChangingVolume(folder / "volume.img", size_bytes)
    points = Points(folder / "points", size_bytes)
    with FileDevice(volume.path, writable=False) as device:
        points.add(BlockSet.of_range(0, volume.blocks), DeviceReader(device))
    return BackupBench(folder, volume, points)


def _is_possible(bench: BackupBench, name: str) -> bool:
    """Return whether the case can run here. Otherwise note it as skipped."""
    reasons = {tool.name: f"apt install {tool.package}" for tool in OTHER_TOOLS}
    possible = {tool.name: tool.is_installed for tool in OTHER_TOOLS}
    reasons |= {
        "recording": "MIRRORLOG_TRACES: the recording isn't there",
        "restore_qemu_img": "apt install qemu-utils",
    }
    possible |= {
        "recording": recording_path() is not None,
        "restore_qemu_img": shutil.which("qemu-img") is not None,
    }
    if possible.get(name, True):
        return True
    bench.skipped.append(f"{name}: {reasons[name]}")
    return False


def _result(
    bench: BackupBench, intervals: dict[str, Any], repeat: int, *, short: bool
) -> dict[str, Any]:
    medians = {name: median(values) for name, values in bench.seconds.items()}
    ratios = {}
    for to, names in (
        ("bare_copy", OWN_CASES),
        ("add_point", tuple(tool.name for tool in OTHER_TOOLS)),
        ("restore_cp", RESTORE_CASES),
    ):
        for name in names:
            if {name, to} <= medians.keys() and name != to:
                ratios[f"{name}_to_{to}"] = round(medians[name] / medians[to], 3)
    for name, value in ratios.items():
        log_line(f"{name:30} {value:8.3f}")
    return {
        "bench": "backup",
        "cases": {
            name: {
                "median": round(medians[name], 4),
                "unit": "s",
                "runs": [round(value, 4) for value in values],
                "cpu_median": round(median(bench.cpu_seconds[name]), 4),
            }
            for name, values in bench.seconds.items()
        },
        "ratios": ratios,
        "stored_to_changed": bench.stored_to_changed,
        "recording": intervals,
        "volume_bytes": bench.volume.size_bytes,
        "changed_blocks": len(bench.volume.changed),
        "chain_images": len(bench.points.names),
        "load_1m": round(os.getloadavg()[0], 2),
        "repeat": repeat,
        "skipped": bench.skipped,
        "failures": bench.failures,
        "short": short,
        "machine": machine(),
    }


if __name__ == "__main__":
    sys.exit(main())
