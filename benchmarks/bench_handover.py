"""Measures how long commands go unanswered after a worker is killed, with and without a standby.

    python benchmarks/bench_handover.py [--extents 40M] [--repeat 3] [--short]

Three workers fold that many random writes and then have their tables. One of them is killed with
SIGKILL while a host goes on writing: a command of one extent for each volume, twenty times a
second. Measured is the time from the kill to the first status of a command that was sent after it,
in each partition that the worker had; the slowest partition counts. Without a standby, the worker
that takes over first reads the partition's changelog. Most of the rest is the session's timeout
(`node_session_timeout_s`), before which no other worker knows of the death. The last line of stdout
is one JSON object.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from bench_node import log_line, parse_count
from cluster import Cluster, wait_for
from results import machine, report_result
from workload import Workload, writes

from mirrorlog.adapters.kafka import KafkaPublisher, KafkaReader
from mirrorlog.cli.demo.run import Run
from mirrorlog.codec.events import encode
from mirrorlog.codec.status_batches import read_statuses
from mirrorlog.settings import Settings
from mirrorlog.topics import Topics

WORKERS: Final = ("node-1", "node-2", "node-3")
_FOLD_S: Final = 900.0
_ANSWER_S: Final = 300.0
_EACH_S: Final = 0.05


class Host:
    """Continues the workload's session with commands of one block, and reads their statuses."""

    def __init__(self, settings: Settings, workload: Workload) -> None:
        self._topics: Topics = settings.topics
        self._publisher = KafkaPublisher(settings.kafka_client())
        self._reader = KafkaReader(settings.kafka_client())
        self._volumes, self._sequence = workload.volumes(), workload.commands_per_volume
        self._sent_at: dict[tuple[int, int], float] = {}

    def read_answers(self, ends: Mapping[int, int]) -> None:
        """Read statuses from these positions on, by partition."""
        self._reader.assign(self._topics.status, dict(ends))

    def write(self) -> None:
        """Publish a command for each volume."""
        self._sequence += 1
        now_us = time.time_ns() // 1000
        for volume in self._volumes:
            command = writes(
                volume, self._sequence, np.array([1], np.uint32), (now_us, now_us), None
            )
            self._publish(volume.partition, volume.volume.encode(), encode(command))

    def _publish(self, partition: int, key: bytes, value: bytes) -> None:
        now = time.monotonic()

        def acknowledged(position: int) -> None:
            self._sent_at[partition, position] = now

        self._publisher.publish(self._topics.commands, partition, key, value, acknowledged)

    def answered(self, timeout_s: float) -> dict[int, float]:
        """Read statuses for `timeout_s`.

        Return, for each partition with statuses, when the newest of their commands was sent.
        """
        self._publisher.poll(0)
        newest_sent_at: dict[int, float] = {}
        for message in self._reader.poll(timeout_s):
            for status in read_statuses(message.value or b""):
                sent_at = self._sent_at.get((status.partition, status.position), 0.0)
                newest_sent_at[status.partition] = max(
                    sent_at, newest_sent_at.get(status.partition, 0.0)
                )
        return newest_sent_at

    def close(self) -> None:
        """Close the clients."""
        self._publisher.close()
        self._reader.close()


def wait_for_assignment(run: Run, partitions: int) -> dict[str, list[int]]:
    """Wait until the workers have all partitions, and return the partitions of each."""
    held: dict[str, list[int]] = {}

    def is_complete() -> bool:
        for message in run.read_messages():
            if message.message_type == "ready":
                held[message.part] = message.fields["partitions"]
        run.check()
        assigned = sorted(number for numbers in held.values() for number in numbers)
        return all(held.get(name) for name in run.parts) and assigned == list(range(partitions))

    wait_for(is_complete, _ANSWER_S, "the workers didn't get all partitions")
    return held


def hand_over(run: Run, cluster: Cluster, workload: Workload) -> float:
    """Kill the worker of partition 0. Return how long its partitions had no status, in seconds."""
    held = wait_for_assignment(run, workload.partitions)
    (holder,) = [name for name, partitions in held.items() if 0 in partitions]
    topic = run.settings.topics.status
    host = Host(run.settings, workload)
    host.read_answers(
        {partition: cluster.admin.end_position(topic, partition) for partition in held[holder]}
    )
    killed_at = time.monotonic()
    run.parts.pop(holder).kill()
    waiting, written_at = set(held[holder]), 0.0
    while waiting:
        if (now := time.monotonic()) > killed_at + _ANSWER_S:
            raise TimeoutError(f"partitions {sorted(waiting)} have no statuses")
        if now - written_at >= _EACH_S:
            host.write()
            written_at = now
        waiting -= {
            partition for partition, sent_at in host.answered(0.01).items() if sent_at > killed_at
        }
        run.check()
    took_s = time.monotonic() - killed_at
    host.close()
    return took_s


def measure(cluster: Cluster, extents: int, standbys: int, name: str) -> dict[str, Any]:
    """Do one run: fold the writes, wait for the assignment, kill a worker."""
    workload = Workload(extents, 500, time.time_ns() // 1000)
    folder = cluster.folder / name
    settings = cluster.settings(f"{name}.", folder / "state", workload.partitions)
    settings = settings.model_copy(update={"node_standbys": standbys, "node_http": "off"})
    with Run(folder, settings, own_broker=False) as run:
        cluster.make_topics(run.settings)
        cluster.describe(run.settings, workload.volumes())
        cluster.publish(run.settings.topics.commands, workload.publications(), "lz4")
        for worker in WORKERS:
            run.start_node(worker)
        group, topic = f"{settings.topic_prefix}node", settings.topics.commands
        ends = workload.ends()

        def recorded() -> bool:
            committed = cluster.admin.committed_positions(group, topic)
            return all((committed[partition] or 0) >= end for partition, end in ends.items())

        wait_for(recorded, _FOLD_S, "the commands weren't folded")
        changelog = sum(
            _changelog_bytes(run.settings, partition) for partition in range(workload.partitions)
        )
        took_s = hand_over(run, cluster, workload)
    cluster.delete_topics([spec.name for spec in settings.topics.specs(single_copy=True)])
    log_line(
        f"{standbys} standbys, {changelog / 1e6:.0f} MB of changelog: unanswered for {took_s:.2f} s"
    )
    return {"unanswered_s": round(took_s, 2), "changelog_bytes": changelog}


def _changelog_bytes(settings: Settings, partition: int) -> int:
    """Return the bytes of the keys and values in a partition of the changelog."""
    reader = KafkaReader(settings.kafka_client())
    reader.assign(settings.topics.changelog, {partition: None})
    size, idle = 0, 0
    while idle < 3:
        messages = reader.poll(0.5)
        size += sum(m.size_bytes for m in messages)
        idle = 0 if messages else idle + 1
    reader.close()
    return size


def figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the median and each run."""
    runs_s = [run["unanswered_s"] for run in runs]
    return {
        "median": round(median(runs_s), 2),
        "unit": "s",
        "runs": runs_s,
        "changelog_bytes": runs[0]["changelog_bytes"],
    }


def main() -> int:
    """Return exit code 1 if a partition got no more statuses."""
    parser = argparse.ArgumentParser(
        description="Measure how long commands go unanswered after a worker is killed."
    )
    parser.add_argument("--extents", help="random writes in the log (default 40M)")
    parser.add_argument("--repeat", type=int, help="runs of each case (default 3)")
    parser.add_argument("--short", action="store_true", help="run once, with 2M extents")
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep a complete result without failures for docs/performance.md",
    )
    arguments = parser.parse_args()
    extents = parse_count(arguments.extents or ("2M" if arguments.short else "40M"))
    runs: dict[str, list[dict[str, Any]]] = {"no_standby": [], "standby": []}
    failures: list[str] = []
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="mirrorlog-bench-")))
        cluster = cleanup.enter_context(Cluster(folder))
        for repeat in range(arguments.repeat or (1 if arguments.short else 3)):
            for standbys, (name, results) in enumerate(runs.items()):
                try:
                    results.append(measure(cluster, extents, standbys, f"{name}-{repeat}"))
                except TimeoutError as error:
                    failures.append(f"{name}: {error}")
    cases = {} if failures else {name: figures(results) for name, results in runs.items()}
    result = {
        "bench": "handover",
        "cases": cases,
        "failures": failures,
        "short": arguments.short,
        "machine": machine(),
    }
    return report_result(result, save=arguments.save)


if __name__ == "__main__":
    sys.exit(main())
