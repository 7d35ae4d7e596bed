"""Measures how fast a site copies over a long line, beside the line itself. It needs root.

    python benchmarks/bench_link.py [--cases link,mirrorlog,…] [--repeat 5] [--short] [--save]

The volume and its changed blocks are those of bench_site.py: 4 GiB, 187 MB in 20,285 runs. Two
network namespaces with 20 ms for a round trip and 1 Gbit/s between them (slow_link.py) stand for
two places. The far one has the primary as an NBD export, the near one the site and the secondary,
a file. Connections are open before a run and stay open, as a site keeps them from one cycle to the
next. Each run ends when the secondary is durable. Cases take turns, and each is held against the
case `link` of the same runs.

- link: one plain TCP connection carries as many bytes. It is the limit.
- one_at_a_time: pread over NBD and pwrite for each run of blocks; the first 400 of them.
- mirrorlog: what a site calls for a cycle (consumers/resync). nbdkit serves the primary.
- journal: the same with `--consistency crash`, without the time of the proof (bench_site.py).
- host: the same as mirrorlog, and `mirrorlog host serve` serves the primary.
- limited, auto: the same as mirrorlog, with `--max-rate 60MB/s` and `--max-rate auto`. The adaptive
  rate begins low: what it has learned stays from one run to the next, as in a site.
- to_export: the other direction. The primary is a file, and the secondary the far export.

The bytes on the wire are those of all packets, both ways, beside the bytes that changed. The
counters of the devices are given, and what the packets are with a header for each 1,500 bytes.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any, Final

from bench_node import log_line
from bench_site import DIRTY_BYTES, RUNS
from case_options import add_case_options, chosen_cases, data_folder
from changed_files import (
    BLOCK_BYTES,
    VOLUME_BYTES,
    Pair,
    change_secondary,
    check_equal,
    draw_runs,
    make_pair,
)
from cluster import Cluster
from pinned import ProgramFailed
from results import machine, report_result
from site_cycle import copy_between, stage_and_apply
from slow_link import FAR, MTU_BYTES, Counters, SlowLink, slow_link

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.consumers.resync.copy_pace import CopyPace
from mirrorlog.consumers.resync.copy_rate import parse_rates
from mirrorlog.ports.clock import SystemClock
from mirrorlog.processes.child_processes import ChildMessage, ChildProcess
from mirrorlog.processes.dies_with_parent import dies_with_parent
from mirrorlog.reading.catalog import new_volume, publish_volume
from mirrorlog.settings import inherited_environment

ROUND_TRIP_S: Final = 0.020
RATE_BITS_S: Final = 1_000_000_000
LIMITED: Final = "60MB/s"
_ONE_AT_A_TIME_RUNS: Final = 400
_START_S: Final = 30.0
_CHUNK_BYTES: Final = 1 << 20
_PRIMARY_PORT, _SECONDARY_PORT, _HOST_PORT, _STREAM_PORT = 10809, 10810, 10811, 10812


@dataclass(slots=True)
class Rig:
    """The line and what is open over it.

    exports: by name, the devices primary, secondary and host. stream: asks for bytes.
    """

    link: SlowLink
    pair: Pair
    stream: socket.socket
    exports: Mapping[str, NbdDevice]
    paces: Mapping[str, CopyPace]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a case. size_bytes: of the changed blocks that it copied."""

    seconds: float
    size_bytes: int
    wire: Counters


@dataclass(slots=True)
class Runs:
    """All runs of each case."""

    of_case: dict[str, list[Run]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def stream_bytes(rig: Rig) -> int:
    """Let the other end of the stream send as much as has changed."""
    size_bytes = rest = sum(length for _, length in rig.pair.runs)
    rig.stream.sendall(size_bytes.to_bytes(8, "big"))
    memory = memoryview(bytearray(_CHUNK_BYTES))
    while rest:
        received = rig.stream.recv_into(memory[: min(rest, _CHUNK_BYTES)])
        if not received:
            raise ProgramFailed("the stream has ended")
        rest -= received
    return size_bytes


def copy_one_at_a_time(rig: Rig) -> int:
    """Copy the first runs, each when the one before it is done."""
    runs = rig.pair.runs[:_ONE_AT_A_TIME_RUNS]
    with rig.pair.secondary.open("r+b", 0) as secondary:
        for offset, length in runs:
            data = rig.exports["primary"].pread(offset=offset, length=length)
            os.pwrite(secondary.fileno(), data, offset)
        os.fdatasync(secondary.fileno())
    return sum(length for _, length in runs)


def copy_as_site(rig: Rig, primary: str, pace: CopyPace | None = None) -> int:
    """Copy the runs from an export to the secondary, as a site does."""
    with FileDevice(rig.pair.secondary, writable=True) as secondary:
        return copy_between(rig.exports[primary], secondary, rig.pair, pace)


def copy_through_journal(rig: Rig) -> int:
    """Stage the runs of the export in a journal, and apply it."""
    return stage_and_apply(rig.exports["primary"], rig.pair)


def copy_to_export(rig: Rig) -> int:
    """Copy the runs from the file of the primary to the export of the secondary."""
    with FileDevice(rig.pair.primary, writable=False) as primary:
        return copy_between(primary, rig.exports["secondary"], rig.pair)


CASES: Final[Mapping[str, Callable[[Rig], int]]] = {
    "link": stream_bytes,
    "one_at_a_time": copy_one_at_a_time,
    "mirrorlog": lambda rig: copy_as_site(rig, "primary"),
    "journal": copy_through_journal,
    "host": lambda rig: copy_as_site(rig, "host"),
    "limited": lambda rig: copy_as_site(rig, "primary", rig.paces["limited"]),
    "auto": lambda rig: copy_as_site(rig, "primary", rig.paces["auto"]),
    "to_export": copy_to_export,
}


def run_case(rig: Rig, name: str) -> Run:
    """Run a case once, with a secondary that differs in the runs."""
    if name != "link":
        change_secondary(rig.pair)
    before, began_s = rig.link.counters(), time.perf_counter()
    size_bytes = CASES[name](rig)
    elapsed_s = time.perf_counter() - began_s
    wire = rig.link.counters() - before
    if name not in ("link", "one_at_a_time"):
        check_equal(rig.pair)
    log_line(
        f"{name:14} {elapsed_s:7.3f} s {size_bytes / elapsed_s / 1e6:8.2f} MB/s"
        f" {wire.device_bytes / size_bytes:.4f} on the wire"
    )
    return Run(elapsed_s, size_bytes, wire)


@contextmanager
def nbdkit(folder: Path, port: int, *arguments: str) -> Iterator[str]:
    """Serve an image at FAR, in this thread's namespace; give the URI."""
    pid_file = folder / f"{port}.pid"
    command = ["nbdkit", "--foreground", "--ipaddr", FAR, "--port", str(port)]
    with subprocess.Popen(
        dies_with_parent(_in_pid_namespace([*command, "--pidfile", str(pid_file), *arguments])),
        stdin=subprocess.DEVNULL,
    ) as process:
        try:
            until_s = time.monotonic() + _START_S
            while not pid_file.exists():
                if process.poll() is not None or time.monotonic() > until_s:
                    raise ProgramFailed("nbdkit didn't start to serve")
                time.sleep(0.02)
            yield f"nbd://{FAR}:{port}"
        finally:
            process.kill()
            process.wait()


def _in_pid_namespace(command: Sequence[str]) -> list[str]:
    """Return the argv of the command in a PID namespace, all of which ends when it is killed.

    nbdkit asks for SIGTERM at its parent's death, whatever was asked for before, and then waits for
    its clients. The line has ended with the parent by then, so nothing says that they are gone.
    """
    first = ("sh", "-c", '"$@" & wait', "sh")
    return ["unshare", "--pid", "--fork", "--kill-child", *first, *command]


@contextmanager
def host(folder: Path, pair: Pair) -> Iterator[str]:
    """Let `mirrorlog host serve` serve the primary in this thread's namespace; give the URI."""
    with Cluster(folder) as cluster:
        settings = cluster.settings("link.", folder / "state", 1)
        cluster.make_topics(settings)
        volume = new_volume(
            "bench",
            size_bytes=pair.size_bytes,
            block_size=BLOCK_BYTES,
            primary=pair.primary.as_uri(),
            ends=[0],
            now_us=1,
        )
        publisher = KafkaPublisher(settings.kafka_client())
        publish_volume(publisher, settings.topics, volume)
        publisher.flush(_START_S)
        publisher.close()
        messages: queue.SimpleQueue[ChildMessage] = queue.SimpleQueue()
        command = ["host", "serve", "bench", "--address", FAR, "--port", str(_HOST_PORT)]
        environment = {**inherited_environment(), **settings.as_environment()}
        part = ChildProcess("host", command, environment, folder / "host.log", messages)
        part.start()
        try:
            while (message := messages.get(timeout=_START_S)).message_type != "ready":
                part.check()
            yield str(message.fields["uri"])
        finally:
            part.signal(signal.SIGTERM)
            part.wait()


def serve_stream(listener: socket.socket) -> None:
    """Send as many bytes as the one client asks for, again and again."""
    client, _ = listener.accept()
    chunk = memoryview(os.urandom(_CHUNK_BYTES))
    with client:
        while len(wanted := client.recv(8, socket.MSG_WAITALL)) == 8:
            rest = int.from_bytes(wanted, "big")
            while rest:
                rest -= client.send(chunk[: min(rest, _CHUNK_BYTES)])


def _prepare(folder: Path, names: Sequence[str], scale: int, cleanup: ExitStack) -> Rig:
    """Write the volumes, make the line, and open everything over it."""
    log_line("writing the volumes")
    size_bytes = VOLUME_BYTES // scale
    runs = draw_runs(size_bytes, RUNS // scale, DIRTY_BYTES // scale)
    pair = make_pair(folder / "volumes", size_bytes, runs)
    link = cleanup.enter_context(slow_link(round_trip_s=ROUND_TRIP_S, rate_bits_s=RATE_BITS_S))
    uris = {}
    with link.far.entered():
        file = ("file", str(pair.primary))
        uris["primary"] = cleanup.enter_context(nbdkit(folder, _PRIMARY_PORT, "--readonly", *file))
        uris["secondary"] = cleanup.enter_context(
            nbdkit(folder, _SECONDARY_PORT, "file", str(pair.secondary))
        )
        if "host" in names:
            uris["host"] = cleanup.enter_context(host(folder, pair))
        listener = cleanup.enter_context(socket.create_server((FAR, _STREAM_PORT)))
        Thread(target=serve_stream, args=(listener,), daemon=True).start()
    with link.near.entered():
        stream = cleanup.enter_context(socket.create_connection((FAR, _STREAM_PORT)))
    exports = {}
    for name, uri in uris.items():
        with link.near.entered():
            device = NbdDevice(parse_nbd_uri(uri), writable=name == "secondary", reconnects=False)
        exports[name] = cleanup.enter_context(device)
    clock = SystemClock()
    paces = {"limited": LIMITED, "auto": "auto"}
    return Rig(
        link,
        pair,
        stream,
        exports,
        {name: CopyPace(parse_rates(rate), clock) for name, rate in paces.items()},
    )


def main() -> int:
    """Return exit code 1 if a case failed, and 2 without root."""
    parser = argparse.ArgumentParser(description="How fast a site copies over a long line.")
    add_case_options(parser, CASES, short="run each case once, with a sixteenth of everything")
    arguments = parser.parse_args()
    names = chosen_cases(parser, arguments, CASES)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # clean up, too
    if os.geteuid() != 0:
        parser.error("network namespaces and their devices need root; run it as root")
    scale, repeat = (16, 1) if arguments.short else (1, arguments.repeat)
    runs = Runs()
    with ExitStack() as cleanup:
        folder = cleanup.enter_context(data_folder(arguments))
        rig = _prepare(folder, names, scale, cleanup)
        with rig.link.near.entered():
            for _ in range(repeat):
                for name in names:
                    try:
                        runs.of_case.setdefault(name, []).append(run_case(rig, name))
                    except ProgramFailed as error:
                        log_line(f"FAILED {name}: {error}")
                        runs.failures.append(f"{name}: {error}")
    result = _result(rig.pair, runs, repeat, short=arguments.short)
    return report_result(result, save=arguments.save and set(names) == set(CASES))


def _result(pair: Pair, runs: Runs, repeat: int, *, short: bool) -> dict[str, Any]:
    cases = {name: _figure(of_case) for name, of_case in runs.of_case.items() if of_case}
    limit = cases["link"]["median"] if "link" in cases else None
    return {
        "bench": "link",
        "cases": cases,
        "shares": {name: round(case["median"] / limit, 4) for name, case in cases.items() if limit},
        "round_trip_s": ROUND_TRIP_S,
        "rate_bits_s": RATE_BITS_S,
        "mtu_bytes": MTU_BYTES,
        "congestion_control": _congestion_control(),
        "volume_bytes": pair.size_bytes,
        "dirty_bytes": sum(length for _, length in pair.runs),
        "dirty_runs": len(pair.runs),
        "repeat": repeat,
        "failures": runs.failures,
        "short": short,
        "machine": machine(),
    }


def _figure(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the median of the rates, and of the bytes on the wire beside those that changed."""
    rates = [run.size_bytes / run.seconds / 1e6 for run in runs]
    return {
        "median": round(median(rates), 3),
        "unit": "MB/s",
        "runs": [round(rate, 3) for rate in rates],
        "wire": round(median(run.wire.device_bytes / run.size_bytes for run in runs), 4),
        "wire_in_frames": round(median(run.wire.frame_bytes / run.size_bytes for run in runs), 4),
    }


def _congestion_control() -> str:
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text("ascii").strip()


if __name__ == "__main__":
    sys.exit(main())
