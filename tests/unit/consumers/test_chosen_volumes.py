"""Which volumes a site mirrors, and that it keeps nothing of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import record, volume

from mirrorlog.consumers.resync.chosen_volumes import ChosenVolumes, is_chosen
from mirrorlog.consumers.resync.command_ends import OwnCommandEnds
from mirrorlog.consumers.resync.replica_logs import ReplicaLogs
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker

# volume, the sites that its description names | patterns | site a mirrors it
CASES = """
db1     |          | yes
db1 a   |          | yes
db1 a b |          | yes
db1 b   |          | no
db1 b   | db*      | yes
db1 a   | web*     | no
db1     | web* db? | yes
DB1     | db*      | no
web     | [a-d]*   | no
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_a_site_mirrors_what_is_chosen(case: str) -> None:
    described, patterns, expected = (part.split() for part in case.split("|"))
    secondaries = {site: f"file:///{site}" for site in described[1:]}
    candidate = volume(described[0], 1 << 20, generation="g", secondaries=secondaries)
    assert is_chosen(candidate, "a", patterns) is (expected == ["yes"])


def test_a_volume_for_which_the_site_has_an_address_is_chosen() -> None:
    other = volume("v", 1 << 20, generation="g", secondaries={"b": "file:///b"})
    assert is_chosen(other, "a", (), {"v": "file:///here"})
    assert not is_chosen(other, "a", ["w"], {"v": "file:///here"})


def test_a_volume_that_was_passed_over_is_judged_again_by_a_new_description() -> None:
    chosen = ChosenVolumes("a", ())
    other = volume("v", 1 << 20, generation="g", secondaries={"b": "file:///b"})
    assert not chosen.take(other)
    assert set(chosen.others) == {"v"}
    assert not chosen.take(other)
    assert chosen.take(replace(other, secondaries={"a": "file:///a"}))
    assert not chosen.others


def test_no_record_of_another_volume_is_kept() -> None:
    broker, topics = MemoryBroker(), Settings().topics
    broker.create(topics.specs(single_copy=True), 1)
    chosen = ChosenVolumes("a", ["w"])
    chosen.take(volume("v", 1 << 20, generation="g"))
    log = LogReader(broker.reader(), broker, topics.changelog, site="a")
    ends = OwnCommandEnds(
        broker.reader, broker, topics.commands, ManualClock(), 5.0, lambda _: None
    )
    logs = ReplicaLogs("a", log, {}, chosen.others, ends)
    assert [logs.is_needed(record("1..2", "1", name=name)) for name in ("v", "v@a", "w")] == [
        False,
        False,
        True,
    ]
