"""What a running worker of the node, and a running host, print."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mirrorlog.cli.support.host_lines import HostLines, stopped_text
from mirrorlog.cli.support.node_lines import NodeLines, listed
from mirrorlog.cli.support.output import Output
from mirrorlog.metric_samples import HistogramValue
from mirrorlog.producers.session.figures import HostFigures
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.streams.table.changelog_follower import RecoveryProgress

SETTINGS = Settings(state_dir=Path("/state"), node_name="n", bootstrap_servers="kafka:1")


def test_a_worker_says_what_it_follows_and_what_a_rebalance_changed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = NodeLines(SETTINGS, Output())
    lines.ready("http://127.0.0.1:1", [0, 1, 2])
    lines.ready("http://127.0.0.1:1", [0, 1, 2])
    lines.ready("http://127.0.0.1:1", [1, 2, 4])
    lines.recovery(RecoveryProgress((4,), 10, 20))
    lines.stopped()
    ready, again, recovery, stopped = capsys.readouterr().out.splitlines()
    assert ready == (
        "the node is ready; partitions 0-2 of mirrorlog.commands at kafka:1 (named by the "
        "program); http://127.0.0.1:1/docs"
    )
    assert again == (
        "the node is ready; after a rebalance it has partitions 1-2, 4: gained 4, lost 0"
    )
    assert recovery == "reading the log of partitions 4 into the tables: 10 of 20 positions"
    assert stopped.startswith("n is stopped: partitions 1-2, 4 wait for it")


def test_a_worker_that_was_never_ready_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    NodeLines(SETTINGS, Output()).stopped()
    assert capsys.readouterr().out == "n is stopped before it was ready: it folded nothing\n"


def test_partitions_are_listed_in_runs() -> None:
    assert listed([7, 0, 1, 2, 3]) == "0-3, 7"
    assert listed([]) == "none"


FIGURES = HostFigures(
    volumes=(),
    hot_regions_limit=1024,
    commands=0,
    queued_bytes=1 << 20,
    spool_bytes=0,
    spool_limit_bytes=256 << 20,
    away_s=0.0,
    acknowledgement_s=HistogramValue((), 0, 0.0),
)


def test_a_host_says_once_that_kafka_went_and_once_that_it_is_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = ManualClock()
    lines = HostLines("h", SETTINGS, Output(), lambda: clock.now_s)
    for away_s in (0.0, 1.0, 2.0, 3.0, 30.0, 0.0, 0.0):
        clock.now_s += 1
        spool_bytes = 1 << 16 if away_s >= 30 or clock.now_s == 6 else 0
        figures = replace(FIGURES, away_s=away_s, spool_bytes=spool_bytes)
        lines.look(lambda figures=figures: figures)  # type: ignore[misc]
    away, back = capsys.readouterr().out.splitlines()
    assert away == (
        "Kafka has acknowledged nothing for 2 s: writes go on, and what they changed waits "
        "(1.0 MiB in memory, 0 B of 256.0 MiB in the spool)"
    )
    assert back.startswith("Kafka acknowledges again after 5 s (1.0 MiB in memory, 64.0 KiB of")


def test_a_host_says_what_it_leaves() -> None:
    assert stopped_text("h", 3, {"v": 7, "a": 2}) == (
        "host h is stopped: its session is closed, and Kafka has all of its 3 commands: a through "
        "position 2, v through position 7. Nothing is left to be published"
    )
    many = stopped_text("h", 1, {f"v{number}": 1 for number in range(1000)})
    assert "1 command:" in many
    assert "and 995 more" in many
