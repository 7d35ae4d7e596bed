"""Measures how many commands a second become leaves of the Merkle trees, and what a leaf takes.

    python benchmarks/bench_chain.py [--commands 200k] [--repeat 5] [--dir DIR]

Commands of one extent, and of 500, are in a topic of the embedded Kafka. The builder of the trees
reads them with all of its threads on one core, hashes them, and makes the files durable in a folder
under --dir. The last line of stdout is one JSON object; all other output is on stderr. What a chain
costs the node's own speed is in bench_node.py, cases node_1_chained and node_500_chained.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench_node import log_line, parse_count
from cluster import Cluster
from pinned import split_cores
from results import machine, report_result
from workload import Workload

from mirrorlog.adapters.kafka import KafkaPublisher, KafkaReader
from mirrorlog.adapters.log_folder import LogFolders
from mirrorlog.codec.events import encode
from mirrorlog.domain.histories import History
from mirrorlog.ports.clock import SystemClock
from mirrorlog.settings import Settings
from mirrorlog.streams.chain.chain_builder import ChainBuilder
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

SIZES: Final = {"one_extent": 1, "500_extents": 500}
_DEADLINE_S: Final = 60.0


def fill(cluster: Cluster, size: int, commands: int) -> Settings:
    """Publish commands of `size` extents, and the watermarks of a node that recorded them."""
    workload = Workload(commands * size, size, ended_at_us=time.time_ns() // 1000)
    settings = cluster.settings(
        f"chain-{size}.", cluster.folder / f"node-{size}", workload.partitions
    )
    cluster.make_topics(settings)
    cluster.publish(settings.topics.commands, workload.publications(), "lz4")
    history = History(
        cluster=cluster.admin.cluster_id(),
        topic=cluster.admin.identity(settings.topics.commands),
        epoch=1,
        id="6b0f2ad0-3a86-4f7e-9d9b-000000000001",
    )
    with closing(KafkaPublisher(settings.kafka_client())) as publisher:
        for partition, end in cluster.ends(settings.topics.commands).items():
            watermark = Watermark(
                partition=partition, through=end - 1, at_us=0, history=history, anchor=None
            )
            publisher.publish(
                settings.topics.changelog, partition, watermark_key(partition), encode(watermark)
            )
        publisher.flush(_DEADLINE_S)
    return settings


@dataclass(frozen=True, slots=True)
class Growth:
    """One run. per_s: leaves a second. bytes_per_leaf: what the files take."""

    leaves: int
    per_s: float
    bytes_per_leaf: float


def measure(cluster: Cluster, settings: Settings, folder: Path, name: str) -> Growth:
    """Grow the trees of all commands in an empty folder."""
    client = settings.kafka_client()
    builder = ChainBuilder(
        lambda: KafkaReader(client),
        cluster.admin,
        settings.topics,
        LogFolders(folder),
        SystemClock(),
    )
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    leaves = sum(grown.added for grown in builder.advance())
    elapsed_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    taken = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    growth = Growth(leaves, leaves / elapsed_s, taken / max(leaves, 1))
    log_line(
        f"{name}: {leaves:,} leaves in {elapsed_s:.2f} s ({cpu_s:.2f} s of CPU), "
        f"{growth.per_s:,.0f}/s, {growth.bytes_per_leaf:.1f} bytes a leaf"
    )
    return growth


def main() -> int:
    """Return exit code 1 if a command didn't become a leaf."""
    parser = argparse.ArgumentParser(description="How fast commands become leaves.")
    parser.add_argument("--commands", type=parse_count, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="create the folders here; they are removed")
    arguments = parser.parse_args()
    core, others = split_cores()
    os.sched_setaffinity(0, others)
    cases: dict[str, object] = {}
    failures: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="mirrorlog-bench-", dir=arguments.dir) as folder,
        Cluster(Path(folder)) as cluster,
    ):
        for name, size in SIZES.items():
            commands = arguments.commands if size == 1 else arguments.commands // 10
            settings = fill(cluster, size, commands)
            expected = sum(cluster.ends(settings.topics.commands).values())
            os.sched_setaffinity(0, [core])
            runs = [
                measure(cluster, settings, Path(folder) / f"trees-{name}-{repeat}", name)
                for repeat in range(arguments.repeat)
            ]
            os.sched_setaffinity(0, others)
            failures += [
                f"{name}: {run.leaves} leaves of {expected} commands"
                for run in runs
                if run.leaves != expected
            ]
            cases[name] = {
                "leaves_per_s": round(statistics.median(run.per_s for run in runs)),
                "runs": [round(run.per_s) for run in runs],
                "bytes_per_leaf": round(runs[-1].bytes_per_leaf, 1),
            }
    result = {
        "bench": "chain",
        "cases": cases,
        "failures": failures,
        "short": True,
        "machine": machine(),
    }
    return report_result(result, save=False)


if __name__ == "__main__":
    sys.exit(main())
