"""The figures of bench_lag.py, from what its observer saw and its writer kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from lag_observer import Observer, SeenState
from pinned import ProgramFailed

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.demo.run import Run
from mirrorlog.codec.events import decode
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

Rows: TypeAlias = npt.NDArray[np.int64]
"""The writes of a pass (lag_writer.py)."""


def check(observer: Observer, rows: Rows) -> None:
    """Raise ProgramFailed if a state claimed a block that wasn't there."""
    of_pass = np.zeros(observer.volume.blocks, bool)
    of_pass[rows[:, 0]] = True
    last = observer.commands.last_positions
    covered = [
        sample
        for sample in observer.samples
        if of_pass[sample.block] and last[sample.block] <= sample.applied
    ]
    missing = [sample.block for sample in covered if not sample.is_there]
    if missing or not covered:
        raise ProgramFailed(
            f"of {len(covered)} blocks that a saved state covered, {len(missing)} weren't there"
        )


def lags(
    run: Run,
    volume: Volume,
    observer: Observer,
    rows: Rows,
    end: int,
) -> dict[str, float]:
    """Return the lags of a pass, and the median time that each stage took, in seconds."""
    positions = observer.commands.last_positions[rows[:, 0]]
    applied = np.maximum.accumulate([state.applied for state in observer.states])
    seen_ns = np.array([state.at_ns for state in observer.states])
    durable_ns = seen_ns[np.searchsorted(applied, positions)]
    lags_s = (durable_ns - rows[:, 1]) / 1e9
    epoch_ns = time.time_ns() - time.monotonic_ns()
    appended = observer.commands.appended_us
    appended_ns = (
        np.array([appended[position] for position in positions.tolist()]) * 1000 - epoch_ns
    )
    throughs, sent_ns = watermarks(run, volume, end)
    logged_ns = sent_ns[np.searchsorted(throughs, positions)] - epoch_ns
    stages = {
        "to_kafka_p50_s": appended_ns - rows[:, 1],
        "to_log_p50_s": logged_ns - appended_ns,
        "to_site_p50_s": durable_ns - logged_ns,
    }
    elapsed_s = (rows[-1, 1] - rows[0, 1]) / 1e9
    return {
        "p50_s": float(np.percentile(lags_s, 50)),
        "p99_s": float(np.percentile(lags_s, 99)),
        "max_s": float(lags_s.max()),
        "writes_per_s": len(rows) / elapsed_s,
        **{name: float(np.median(values)) / 1e9 for name, values in stages.items()},
    }


def watermarks(
    run: Run, volume: Volume, end: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the positions, and the times in ns since 1970, of the watermarks from `end` on."""
    topic, key = run.settings.topics.changelog, watermark_key(volume.partition)
    reached: dict[int, int] = {}
    with (
        closing(KafkaReader(run.settings.kafka_client())) as reader,
        closing(KafkaAdmin(run.settings.kafka_client())) as admin,
    ):
        reader.assign(topic, {volume.partition: None})
        last = admin.end_position(topic, volume.partition)
        while reader.reached(topic, volume.partition) < last:
            for message in reader.poll(0.5, max_messages=10_000):
                if message.value is not None and message.key == key:
                    through = decode(message.value, Watermark).through
                    if through >= end:
                        reached.setdefault(through, message.at_us * 1000)
    throughs = sorted(reached)
    return np.array(throughs), np.array([reached[through] for through in throughs])


def gaps(states: Sequence[SeenState], rows: Rows) -> dict[str, float]:
    """Return the gaps between consistent positions while the writes of a pass went on."""
    begin_ns, end_ns = int(rows[0, 1]), int(rows[-1, 1])
    times, last = [begin_ns], -1
    for state in states:
        if state.consistent > last and begin_ns <= state.at_ns <= end_ns:
            times.append(state.at_ns)
            last = state.consistent
    gaps_s = np.diff([*times, end_ns]) / 1e9
    return {
        "largest_gap_s": float(gaps_s.max()),
        "median_gap_s": float(np.median(gaps_s)),
        "positions": len(times) - 1,
        "writes_per_s": len(rows) / ((end_ns - begin_ns) / 1e9),
    }
