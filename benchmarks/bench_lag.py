"""Measures how long an acknowledged write takes until it is durable at a site.

    python benchmarks/bench_lag.py [--cases lag,consistent] [--repeat 5] [--short] [--save]

Broker, node, host and site are processes of their own on one machine, with one disk. All blocks of
the volume of 2 GiB are allocated and copied to the site before the clock starts.

- lag: a host makes 5,000 writes of 4 KiB a second for 60 s through mirrorlog's tracked volume
  (lag_writer.py), each to another block, in random order. The lag of a write begins when pwrite()
  has returned, and ends when the write is durable at the site. p50 and p99 are of all writes.
- consistent: a client makes 2,000 writes a second for 60 s through the export of `mirrorlog host
  serve`, without a pause, and the site runs with `--consistency crash`. The largest gap is the
  longest time in which the secondary reached no further consistent position.

How it is known when a write is durable at the site. Four things could tell, and each could lie:

- The site's progress on its topic is late: a secondary that is never quiet is reported once a
  second.
- The contents of the secondary show what is written, and not what is durable. They also show the
  blocks of a cycle that still runs. Reading past the page cache (O_DIRECT) makes the kernel write
  first, and so makes durable what it was to observe.
- The saved state of the secondary is what the site stands on after a crash. It is replaced when the
  blocks are durable (invariant 6), and never before. But it is the site's own claim.
- Only a loss of power proves what was durable. The simulation does that at each step.

So the time is that at which a saved state is seen in the site's folder whose position covers the
command that names the write: at the earliest a moment after the write is durable, never before,
unless invariant 6 is broken. The command of each write is read from the topic of commands, and not
asked of the host: it is the last one that names the block. The claim is checked: for each state
that is seen, some of the blocks that it covers are read from the secondary. A block that isn't
there fails the benchmark. So does a secondary that doesn't equal its primary at the end.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from bench_node import log_line
from case_options import add_case_options, chosen_cases, data_folder
from lag_figures import Rows, check, gaps, lags
from lag_observer import CommandFollower, Observer
from lag_processes import START_S, Writer, end_part, served
from lag_writer import BLOCK_BYTES
from nbd_exports import make_image
from pinned import ProgramFailed
from results import machine, report_result

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher
from mirrorlog.cli.demo.proof import ProgressFollower
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.lookup import load_volumes
from mirrorlog.consumers.verify.compare import compare_files
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.catalog import new_volume, publish_volume
from mirrorlog.settings import inherited_environment, load_settings

_COPY_S: Final = 600.0
_VOLUME_BYTES: Final = 2 << 30
_SHORT_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """A case: who writes, how fast, and how the site runs."""

    writes_per_s: int
    is_served: bool
    site_options: tuple[str, ...] = ()


CASES: Final = {
    "lag": Case(5_000, is_served=False),
    "consistent": Case(2_000, is_served=True, site_options=("--consistency", "crash")),
}


@dataclass(slots=True)
class Bench:
    """What the cases share, and their figures: by case and figure, the value of each pass."""

    run: Run
    seconds: float
    size_bytes: int
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def note(self, case: str, **values: float) -> None:
        """Keep and print the figures of a pass."""
        of_case = self.figures.setdefault(case, {})
        for name, value in values.items():
            of_case.setdefault(name, []).append(value)
        log_line(f"{case:12}" + "".join(f"{name} {value:.3f}  " for name, value in values.items()))


def run_case(bench: Bench, name: str, repeat: int) -> None:
    """Run the passes of a case on a volume and a site of its own."""
    case, run = CASES[name], bench.run
    volume, primary = _make_volume(bench, name)
    options = ["--volumes", name, *case.site_options]
    folder = run.folder / f"site-{name}"
    with ExitStack() as stack:
        arguments = [name, str(case.writes_per_s), str(bench.seconds), str(run.folder)]
        if case.is_served:
            uri = stack.enter_context(served(run, name))
            arguments += ["--uri", uri]
            options += ["--primary", f"{name}={uri}"]
        environment = {**inherited_environment(), **run.settings.as_environment()}
        writer = Writer(arguments, environment, run.folder / f"writer-{name}.log")
        stack.enter_context(writer)
        writer.wait_ready()
        run.start_site(f"site-{name}", *options)
        stack.callback(end_part, run, f"site-{name}")
        run.wait_ready(f"site-{name}")
        follower = stack.enter_context(closing(ProgressFollower(run.settings)))
        commands = stack.enter_context(closing(CommandFollower(run.settings, volume)))
        state_file = folder / "states" / f"{name}.json"
        observer = Observer(state_file, volume, folder / f"{name}.img", commands)
        _wait_consistent(bench, follower, volume)
        for number in range(1, repeat + 1):
            end = _end(run, volume)
            rows = _run_pass(bench, writer, observer, number, end)
            _wait_consistent(bench, follower, volume)
            check(observer, rows)
            if name == "lag":
                bench.note(name, **lags(run, volume, observer, rows, end))
            else:
                bench.note(name, **gaps(observer.states, rows))
    if not compare_files(primary, folder / f"{name}.img", block_size=BLOCK_BYTES).identical:
        raise ProgramFailed("the secondary doesn't equal its primary")


def _make_volume(bench: Bench, name: str) -> tuple[Volume, Path]:
    """Create a volume whose blocks are all allocated, and its primary."""
    run, settings = bench.run, bench.run.settings
    primary = run.folder / f"{name}.img"
    make_image(primary, bench.size_bytes)
    with closing(KafkaAdmin(settings.kafka_client())) as admin:
        topic = settings.topics.commands
        ends = [
            admin.end_position(topic, partition) for partition in range(admin.partitions(topic))
        ]
    volume = new_volume(
        name,
        size_bytes=bench.size_bytes,
        block_size=BLOCK_BYTES,
        primary=primary.as_uri(),
        ends=ends,
        now_us=time.time_ns() // 1000,
    )
    with closing(KafkaPublisher(settings.kafka_client())) as publisher:
        publish_volume(publisher, settings.topics, volume)
        publisher.flush(START_S)
    return load_volumes(settings)[name], primary


def _run_pass(bench: Bench, writer: Writer, observer: Observer, number: int, end: int) -> Rows:
    """Make the writes of a pass, until all of them are durable at the site. Return its rows."""
    observer.begin(end)
    writer.begin(number)
    deadline_s = 3 * bench.seconds + START_S
    observer.watch(number, lambda: writer.has_printed(str(number)), deadline_s)
    rows: Rows = np.load(bench.run.folder / f"{number}.npy")
    last = 0

    def is_durable() -> bool:
        nonlocal last
        bench.run.check()
        named = observer.commands.last_positions[rows[:, 0]]
        last = int(named.max()) if (named >= 0).all() else 1 << 62
        return any(state.applied >= last for state in observer.states)

    # A command that comes late may name the last writes once more, so it looks twice.
    for _ in range(2):
        observer.watch(number, is_durable, _COPY_S)
        observer.commands.follow(0.5)
    observer.watch(number, is_durable, _COPY_S)
    return rows


def _end(run: Run, volume: Volume) -> int:
    with closing(KafkaAdmin(run.settings.kafka_client())) as admin:
        return admin.end_position(run.settings.topics.commands, volume.partition)


def _wait_consistent(bench: Bench, follower: ProgressFollower, volume: Volume) -> None:
    """Wait until the volume is proved at its site as of now."""
    position = {volume.volume: _end(bench.run, volume) - 1}
    until = time.monotonic() + _COPY_S
    while follower.unproved(f"site-{volume.volume}", position):
        follower.poll(0.2)
        bench.run.check()
        if time.monotonic() > until:
            raise ProgramFailed(f"the site isn't consistent after {_COPY_S:g} s")


def main() -> int:
    """Return exit code 1 if a case failed."""
    parser = argparse.ArgumentParser(description="How long a write takes until it is at a site.")
    add_case_options(parser, CASES, short="one pass of 5 s of each case")
    parser.add_argument("--seconds", type=float, default=60, help="of each pass (default 60)")
    arguments = parser.parse_args()
    names = chosen_cases(parser, arguments, CASES)
    repeat, seconds = (1, 5.0) if arguments.short else (arguments.repeat, arguments.seconds)
    failures: list[str] = []
    with ExitStack() as cleanup:
        folder = cleanup.enter_context(data_folder(arguments))
        run = cleanup.enter_context(Run(folder / "run", load_settings(), own_broker=True))
        run.start_broker()
        run.start_node()
        run.wait_ready("node")
        size_bytes = _SHORT_BYTES if arguments.short else _VOLUME_BYTES
        bench = Bench(run, seconds, size_bytes)
        for name in names:
            try:
                run_case(bench, name, repeat)
            except ProgramFailed as error:
                log_line(f"FAILED {name}: {error}")
                failures.append(f"{name}: {error}")
    is_whole = set(names) == set(CASES)
    return report_result(
        {
            "bench": "lag",
            "cases": {
                f"{name}_{figure}": {"median": round(median(values), 4), "runs": values}
                for name, figures in bench.figures.items()
                for figure, values in figures.items()
            },
            "seconds": seconds,
            "volume_bytes": size_bytes,
            "repeat": repeat,
            "failures": failures,
            "short": arguments.short,
            "machine": machine(),
        },
        save=arguments.save and is_whole,
    )


if __name__ == "__main__":
    sys.exit(main())
