"""Workers that share what one of them has started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from deadlines import DEADLINE_S
from shared_brokers import one_for_all


class Broker:
    """Counts its starts. using: the workers that use it now."""

    def __init__(self) -> None:
        self.starts, self.runs = 0, False
        self.using: set[int] = set()

    @contextmanager
    def start(self) -> Iterator[str]:
        assert not self.runs
        self.starts, self.runs = self.starts + 1, True
        yield f"broker {self.starts}"
        assert not self.using
        self.runs = False


class Worker:
    """A thread that uses the broker until it is told to leave."""

    def __init__(self, number: int, folder: Path, broker: Broker) -> None:
        self.joined, self.leaves = threading.Event(), threading.Event()
        self.address = ""
        self._number, self._folder, self._broker = number, folder, broker
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with one_for_all(self._folder, self._broker.start) as self.address:
            self._broker.using.add(self._number)
            self.joined.set()
            self.leaves.wait()
            assert self._broker.runs
            self._broker.using.remove(self._number)

    def leave(self) -> None:
        self.leaves.set()
        self.thread.join(DEADLINE_S)


def test_who_started_it_ends_it_after_all_others_and_it_can_be_started_again(
    tmp_path: Path,
) -> None:
    broker = Broker()
    workers = [Worker(number, tmp_path, broker) for number in range(4)]
    for worker in workers:
        assert worker.joined.wait(DEADLINE_S)
    assert {worker.address for worker in workers} == {"broker 1"}
    for worker in workers:
        worker.leaves.set()
    for worker in workers:
        worker.thread.join(DEADLINE_S)
    assert (broker.starts, broker.runs, broker.using) == (1, False, set())
    later = Worker(5, tmp_path, broker)
    assert later.joined.wait(DEADLINE_S)
    assert later.address == "broker 2"
    later.leave()
    assert not broker.runs


def test_it_runs_on_for_those_that_came_before_its_owner_ended(tmp_path: Path) -> None:
    broker = Broker()
    owner = Worker(0, tmp_path, broker)
    assert owner.joined.wait(DEADLINE_S)
    other = Worker(1, tmp_path, broker)
    assert other.joined.wait(DEADLINE_S)
    owner.leaves.set()
    owner.thread.join(0.1)
    third = Worker(2, tmp_path, broker)
    assert third.joined.wait(DEADLINE_S)
    assert (owner.thread.is_alive(), third.address, broker.runs) == (True, "broker 1", True)
    other.leave()
    third.leave()
    owner.thread.join(DEADLINE_S)
    assert (broker.starts, broker.runs) == (1, False)


def test_an_owner_whom_others_outlast_fails_and_ends_it(tmp_path: Path) -> None:
    ended = []

    @contextmanager
    def start() -> Iterator[str]:
        try:
            yield "broker"
        finally:
            ended.append("broker")

    with (
        ExitStack() as others,
        pytest.raises(AssertionError, match="the deadline has passed"),
        one_for_all(tmp_path, start, patience_s=0.01),
    ):
        assert others.enter_context(one_for_all(tmp_path, start)) == "broker"
    assert ended == ["broker"]
