"""How long a worker's partitions go unanswered when it is killed, with and without a standby.

    python benchmarks/bench_handover.py [--extents 40M] [--repeat 3] [--short]

Three workers fold that many random writes and have their tables then. One is killed with -9 while a host goes on writing, a
command of one extent for each volume twenty times a second. Measured is the time from the kill to the first answer to a
command that was sent after it, in each partition that the worker had: the slowest of them. Whoever takes over without a
standby reads the partition's changelog first. Most of the rest is the session's timeout (`node_session_timeout_s`), before
which nobody knows. The last line of stdout is one JSON object.
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
from bench_node import number, say
from cluster import Cluster, wait_for
from results import finish, machine
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
    """Goes on with the workload's session, a command of one block at a time, and reads the answers."""

    def __init__(self, settings: Settings, workload: Workload) -> None:
        self._topics: Topics = settings.topics
        self._publisher = KafkaPublisher(settings.kafka_client())
        self._answers = KafkaReader(settings.kafka_client())
        self._volumes, self._sequence = workload.volumes(), workload.commands_per_volume
        self._sent_at: dict[tuple[int, int], float] = {}

    def read_answers(self, ends: Mapping[int, int]) -> None:
        """From now on."""
        self._answers.assign(self._topics.status, dict(ends))

    def write(self) -> None:
        """A command for each volume."""
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
        """By partition of what was answered meanwhile, when the newest of those commands was sent."""
        self._publisher.poll(0)
        found: dict[int, float] = {}
        for message in self._answers.poll(timeout_s):
            for status in read_statuses(message.value or b""):
                sent_at = self._sent_at.get((status.partition, status.position), 0.0)
                found[status.partition] = max(sent_at, found.get(status.partition, 0.0))
        return found

    def close(self) -> None:
        """Lets go of the clients."""
        self._publisher.close()
        self._answers.close()


def settled(run: Run, partitions: int) -> dict[str, list[int]]:
    """Which partitions each worker has, once they have all of them between them."""
    held: dict[str, list[int]] = {}

    def is_settled() -> bool:
        for message in run.read_messages():
            if message.message_type == "ready":
                held[message.part] = message.fields["partitions"]
        run.check()
        everyone = all(held.get(name) for name in run.parts)
        return everyone and sorted(number for each in held.values() for number in each) == list(
            range(partitions)
        )

    wait_for(is_settled, _ANSWER_S, "the workers didn't share the partitions")
    return held


def hand_over(run: Run, cluster: Cluster, workload: Workload) -> float:
    """Kills the worker that has partition 0; how long its partitions were without an answer, in seconds."""
    held = settled(run, workload.partitions)
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
            raise TimeoutError(f"partitions {sorted(waiting)} aren't answered")
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
    """One run: folded, settled, killed."""
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
        changelog = sum(_size(run.settings, partition) for partition in range(workload.partitions))
        took_s = hand_over(run, cluster, workload)
    cluster.delete_topics([spec.name for spec in settings.topics.specs(single_copy=True)])
    say(
        f"{standbys} standbys, {changelog / 1e6:.0f} MB of changelog: unanswered for {took_s:.2f} s"
    )
    return {"unanswered_s": round(took_s, 2), "changelog_bytes": changelog}


def _size(settings: Settings, partition: int) -> int:
    reader = KafkaReader(settings.kafka_client())
    reader.assign(settings.topics.changelog, {partition: None})
    size, idle = 0, 0
    while idle < 3:
        found = reader.poll(0.5)
        size += sum(len(each.key or b"") + len(each.value or b"") for each in found)
        idle = 0 if found else idle + 1
    reader.close()
    return size


def figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The median and each run."""
    took = [run["unanswered_s"] for run in runs]
    return {
        "median": round(median(took), 2),
        "unit": "s",
        "runs": took,
        "changelog_bytes": runs[0]["changelog_bytes"],
    }


def main() -> int:
    """1 where a partition wasn't answered any more."""
    parser = argparse.ArgumentParser(
        description="How long a killed worker's partitions go unanswered."
    )
    parser.add_argument("--extents", help="random writes in the log (default 40M)")
    parser.add_argument("--repeat", type=int, help="runs of each case (default 3)")
    parser.add_argument("--short", action="store_true", help="a quick look: 2M extents, once")
    parser.add_argument(
        "--save", action="store_true", help="keep a good, full result for docs/performance.md"
    )
    given = parser.parse_args()
    extents = number(given.extents or ("2M" if given.short else "40M"))
    runs: dict[str, list[dict[str, Any]]] = {"no_standby": [], "standby": []}
    failures: list[str] = []
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="mirrorlog-bench-")))
        cluster = cleanup.enter_context(Cluster(folder))
        for turn in range(given.repeat or (1 if given.short else 3)):
            for standbys, (name, found) in enumerate(runs.items()):
                try:
                    found.append(measure(cluster, extents, standbys, f"{name}-{turn}"))
                except TimeoutError as error:
                    failures.append(f"{name}: {error}")
    cases = {} if failures else {name: figures(found) for name, found in runs.items()}
    result = {
        "bench": "handover",
        "cases": cases,
        "failures": failures,
        "short": given.short,
        "machine": machine(),
    }
    return finish(result, save=given.save)


if __name__ == "__main__":
    sys.exit(main())
