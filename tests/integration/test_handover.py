"""Several workers share the partitions. Workers die, join and leave, and nothing is lost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
from deadlines import DEADLINE_S
from folding import Proof
from writing import StatusTimes, Writer, make_volumes, names_by_partition

from mirrorlog.cli.demo.run import Run
from mirrorlog.errors import ExitCode, PartFailed
from mirrorlog.processes.child_processes import stop_all

pytestmark = [pytest.mark.integration, pytest.mark.long]

MIB = 1 << 20
Record = Callable[[str, object], None]


class Workers:
    """The workers of a run, and which partitions each has, as their `ready` messages say."""

    def __init__(self, run: Run, *names: str) -> None:
        self.run, self.held = run, {name: list[int]() for name in names}
        for name in names:
            run.start_node(name)

    def start(self, name: str) -> None:
        """Start one more worker."""
        self.held[name] = []
        self.run.start_node(name)

    def owner(self, partition: int) -> str:
        """Return the worker that has the partition."""
        (owner,) = [name for name, held in self.held.items() if partition in held]
        return owner

    def owners(self) -> dict[int, str]:
        """Return the worker of each partition."""
        return {partition: name for name, held in self.held.items() for partition in held}

    def settle(self, meanwhile: Callable[[float], None] | None = None) -> None:
        """Return when the workers have all partitions, and equally many, give or take one.

        meanwhile: called again and again, with the seconds that it may take.
        """
        until = time.monotonic() + DEADLINE_S

        def settled() -> bool:
            sizes = [len(held) for held in self.held.values()]
            all_held = sorted(partition for held in self.held.values() for partition in held)
            return max(sizes) - min(sizes) <= 1 and all_held == list(
                range(self.run.settings.partitions)
            )

        while not settled():
            assert time.monotonic() < until, self.held
            if meanwhile is not None:
                meanwhile(0.05)
            for message in self.run.read_messages(0.05):
                if message.message_type == "ready" and message.part in self.held:
                    self.held[message.part] = message.fields["partitions"]
            self.run.check()


def grow_log(writer: Writer, answers: StatusTimes, size_bytes: int) -> None:
    """Write until the changelog holds about `size_bytes`.

    The extents are scattered, so that a record is as large as its command.
    """
    for _ in range(size_bytes // 40_000 // len(writer.volumes)):
        for name in writer.volumes:
            writer.send(name, 1, extents=5000)
        writer.flush()
    answers.wait_for(writer.sent_at)


NO_HTTP = {"node_http": "off"}


@pytest.mark.parametrize(
    "world",
    [NO_HTTP | {"node_standbys": n} for n in (0, 1)],
    indirect=True,
    ids=["no standby", "standby"],
)
def test_one_of_three_workers_is_killed_and_the_others_answer_in_its_partitions(
    world: Run, record_property: Record
) -> None:
    volumes = make_volumes(world.settings, dict.fromkeys(names_by_partition(4), 1 << 34))
    writer, answers = Writer(world.settings, volumes), StatusTimes(world.settings)
    workers = Workers(world, "node-1", "node-2", "node-3")
    workers.settle()
    grow_log(writer, answers, 8 * MIB)
    with writer.at_full_speed(pace_s=0.05):
        killed = workers.owner(0)
        lost = workers.held.pop(killed)
        killed_at = time.monotonic()
        world.parts.pop(killed).kill()
        answered_at = wait_answered_since(writer, answers, lost, killed_at)
        record_property(
            "from the kill to the first answer in all its partitions, s",
            round(answered_at - killed_at, 2),
        )
        workers.settle(answers.poll)
    assert set(lost) <= workers.owners().keys() and killed not in workers.owners().values()
    answers.wait_for(writer.sent_at)
    proof = Proof(world.settings)
    proof.all(workers.owners())
    if world.settings.node_standbys:  # each of the two has what the other works on
        for partition, name in workers.owners().items():
            (other,) = workers.held.keys() - {name}
            proof.of_a_table(other, partition)
    writer.close()
    answers.close()


@pytest.mark.parametrize("world", [NO_HTTP], indirect=True, ids=[""])
def test_a_host_is_answered_while_workers_join_and_leave(
    world: Run, record_property: Record
) -> None:
    volumes = make_volumes(
        world.settings, dict.fromkeys(names_by_partition(4, per_partition=2), 1 << 30)
    )
    writer, answers = Writer(world.settings, volumes), StatusTimes(world.settings)
    workers = Workers(world, "node-1", "node-2")
    workers.settle()
    with writer.at_full_speed(pace_s=0.005):
        while len(answers.arrived_at) < 500:
            answers.poll(0.2)
        began = time.monotonic()
        workers.start("node-3")
        workers.settle(answers.poll)
        wait_answered_since(writer, answers, [0, 1, 2, 3], began)
        came = time.monotonic()
        assert sorted(map(len, workers.held.values())) == [1, 1, 2]
        del workers.held["node-1"]
        stopped = world.parts.pop("node-1")
        stop_all([stopped], DEADLINE_S)
        assert stopped.exit_code == 0
        workers.settle(answers.poll)
        wait_answered_since(writer, answers, [0, 1, 2, 3], time.monotonic())
        went = time.monotonic()
    answers.wait_for(writer.sent_at)
    coming_s, going_s = answers.largest_gap_s(began, came), answers.largest_gap_s(came, went)
    record_property(
        "longest that a partition went unanswered while a worker came, and while one went, s",
        (coming_s, going_s),
    )
    Proof(world.settings).all(workers.owners())
    writer.close()
    answers.close()


@pytest.mark.parametrize("world", [NO_HTTP], indirect=True, ids=[""])
def test_two_workers_of_one_name_on_two_machines_share_the_partitions(world: Run) -> None:
    """Their folders tell them apart. A worker in the folder of one of them is refused."""
    volumes = make_volumes(world.settings, dict.fromkeys(names_by_partition(4), 1 << 30))
    writer, answers = Writer(world.settings, volumes), StatusTimes(world.settings)
    workers = Workers(world, "node-1")
    workers.settle()
    workers.held["twin"] = []
    world.start_node("node-1", part="twin", state_dir=world.folder / "another-machine")
    workers.settle()
    for name in volumes:
        writer.send(name, 5)
    writer.flush()
    answers.wait_for(writer.sent_at)
    assert sorted(map(len, workers.held.values())) == [2, 2]
    beside = world.start_node("node-1", part="beside")
    beside.wait(DEADLINE_S)
    assert beside.exit_code == int(ExitCode.BAD_USE)
    with pytest.raises(PartFailed, match=f"process {world.parts['node-1'].pid} on "):
        beside.check()
    assert "Traceback" not in (world.folder / "beside.log").read_text()
    del world.parts["beside"]
    world.check()
    writer.close()
    answers.close()


def wait_answered_since(
    writer: Writer, answers: StatusTimes, partitions: list[int], since_s: float
) -> float:
    """Return when the last of the partitions answered a command that was sent after `since_s`."""
    until = time.monotonic() + DEADLINE_S
    while True:
        answers.poll(0.05)
        first: dict[int, float] = {}
        for (partition, position), arrived_at in answers.arrived_at.items():
            if writer.sent_at.get((partition, position), 0) > since_s:
                first[partition] = min(arrived_at[0], first.get(partition, math.inf))
        if all(partition in first for partition in partitions):
            return max(first[partition] for partition in partitions)
        assert time.monotonic() < until, first
