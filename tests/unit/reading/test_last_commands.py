"""Which volumes the last commands of a partition may concern, on a broker in memory."""

from __future__ import annotations

import pytest
from notation import command, promotion

from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.promotions import PromotionCommand
from mirrorlog.ports.streams import TopicReader
from mirrorlog.reading import last_commands
from mirrorlog.reading.last_commands import LastCommands
from mirrorlog.reading.read_through import ReadPatience
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics

COMMANDS = Topics().commands
BEAT = command(name="", kind=CommandKind.HEARTBEAT, sequence=-1)
CLOSE = command(name="", kind=CommandKind.SESSION_CLOSE, sequence=-1)
OTHER = command("0+4096", name="other")


class World:
    """A partition with these commands, and what reads them; opened: how many readers it opened."""

    def __init__(self, *commands: TrackingCommand | PromotionCommand | bytes) -> None:
        self.broker, self.opened = MemoryBroker(), 0
        self.broker.create(Topics().specs(single_copy=True), 1)
        for one in commands:
            value = one if isinstance(one, bytes) else encode(one)
            self.broker.append(COMMANDS, 0, b"key", value)
        self.last = LastCommands(
            self.reader,
            COMMANDS,
            0,
            ReadPatience(ManualClock(), 1.0, "testing"),
            through=self.broker.end_position(COMMANDS, 0) - 1,
        )

    def reader(self) -> TopicReader:
        self.opened += 1
        return self.broker.reader()


@pytest.mark.parametrize(
    ("what", "may"),
    [
        (OTHER, False),
        (BEAT, False),
        (CLOSE, False),
        (command("0+4096"), True),
        (command(kind=CommandKind.HEARTBEAT), True),  # its number may show that others are missing
        (command(name="", kind=CommandKind.WRITES), True),
        (promotion(), True),
        (b"of a newer release", True),
    ],
)
def test_a_command_may_concern_the_volume(
    what: TrackingCommand | PromotionCommand | bytes, may: bool
) -> None:
    for commands in ([OTHER, what, BEAT], [OTHER, BEAT, what]):
        assert World(*commands).last.may_concern("v", after=0) is may


def test_only_what_is_asked_for_is_read_and_that_once() -> None:
    world = World(command("0+4096"), OTHER, BEAT, OTHER)
    assert not world.last.may_concern("v", after=3)
    assert world.opened == 0
    assert not world.last.may_concern("v", after=1)
    assert not world.last.may_concern("v", after=0)
    assert world.last.may_concern("v", after=-1)
    assert world.opened == 3
    assert world.last.may_concern("other", after=2)
    assert not world.last.may_concern("other", after=3)
    assert world.opened == 3


def test_what_came_after_the_last_command_does_not_count() -> None:
    world = World(OTHER, BEAT)
    world.broker.append(COMMANDS, 0, b"v", encode(command("0+4096")))
    assert not world.last.may_concern("v", after=0)


def test_nothing_is_proved_of_what_is_not_kept_or_is_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(OTHER, BEAT, BEAT, BEAT)
    monkeypatch.setattr(last_commands, "MOST_POSITIONS", 2)
    assert world.last.may_concern("v", after=0)
    monkeypatch.setattr(last_commands, "MOST_POSITIONS", 3)
    assert not world.last.may_concern("v", after=0)
    world = World(OTHER, BEAT, BEAT, BEAT)
    world.broker.trim(COMMANDS, 0, 2)
    for _ in range(2):  # whoever waits asks again and again
        assert world.last.may_concern("v", after=0)
    assert world.last.may_concern("v", after=-1)
    assert world.opened == 1
    assert not world.last.may_concern("v", after=1)
