"""A worker of the node shows signs of life only while it makes progress."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from deadlines import until

from mirrorlog.streams import liveness
from mirrorlog.streams.engine import EngineHealth
from mirrorlog.streams.liveness import LifeCalls, NodeLiveness

WELL = EngineHealth({}, 0.0, None)
HOLDING_BACK = EngineHealth({}, 20.0, "messages aren't acknowledged")
STUCK = EngineHealth({4: "no offset was committed", 2: "no fetch was answered"}, 0.0, None)


@dataclass
class Worker:
    """A worker with this health. said: what it told."""

    health: EngineHealth = WELL
    said: list[str] = field(default_factory=list)

    def liveness(self) -> NodeLiveness:
        calls = LifeCalls(
            on_alive=lambda: self.said.append("alive"),
            on_stuck=self.said.append,
            on_stopping=lambda: self.said.append("stopping"),
        )
        return NodeLiveness(self.look_at_health, calls)

    def look_at_health(self) -> EngineHealth:
        if self.health is STUCK and not self.said:
            raise RuntimeError("a defect")
        return self.health


@pytest.mark.parametrize("health", [WELL, HOLDING_BACK])
def test_a_worker_that_works_or_tries_again_is_alive(health: EngineHealth) -> None:
    worker = Worker(health)
    worker.liveness().look()
    assert worker.said == ["alive"]


def test_a_stuck_worker_is_not_alive_and_says_why() -> None:
    worker = Worker(STUCK, said=["alive"])
    worker.liveness().look()
    assert worker.said[1:] == ["partition 2 (and 1 more) is stuck: no fetch was answered"]


def test_a_worker_looks_by_itself_until_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "LOOK_S", 0.0)
    worker = Worker()

    async def live() -> None:
        life = worker.liveness()
        await life.start()
        await until(lambda: len(worker.said) > 2)
        await life.stop()
        before = list(worker.said)
        for _ in range(3):
            await asyncio.sleep(0)
        assert worker.said == before
        assert (before[0], before[-1]) == ("alive", "stopping")

    asyncio.run(live())


def test_a_defect_in_the_look_is_no_sign_of_life(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(liveness, "LOOK_S", 0.0)
    worker = Worker(STUCK)

    async def live() -> None:
        life = worker.liveness()
        await life.start()
        await until(lambda: "can't tell" in caplog.text)
        assert worker.said == []
        worker.health = WELL
        await until(lambda: worker.said == ["alive"])
        await life.stop()

    asyncio.run(live())
