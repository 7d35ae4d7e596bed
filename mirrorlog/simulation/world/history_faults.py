"""Faults after which a position means another command: a new topic, a broker that went back."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.world.host import HostModel
from mirrorlog.simulation.world.node import NodeModel
from mirrorlog.simulation.world.site import SiteModel


class HistoryFaults:
    """What the world does to the topics.

    broken: whether a fault has struck since the world began.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        settings: Settings,
        random: Random,
        *,
        host: HostModel,
        node: NodeModel,
        site: SiteModel,
    ) -> None:
        self._broker, self._topics, self._random = broker, settings.topics, random
        self._host, self._node, self._site = host, node, site
        self._ends: list[dict[str, int]] = []
        self.broken = False

    def note_ends(self) -> None:
        """Note where all topics end, as a backup of the broker does."""
        self._ends.append(self._ends_now())

    def strike(self) -> None:
        """Let one fault happen, which is drawn."""
        faults: tuple[Callable[[], None], ...] = (
            self._create_commands_again,
            self._take_commands_back,
            self._take_all_back,
        )
        is_known = self._node.knows_sessions()
        self._random.choice(faults)()
        self.broken = True
        self._host.lose_positions(self._broker.end_position(self._topics.commands, 0))
        if not is_known:
            self._host.publish_all()  # docs/threats.md: until then, no site can know the session
        self._site.note_ended(self._node.history_id)
        self._node.note_outage()

    def _create_commands_again(self) -> None:
        self._broker.delete([self._topics.commands])
        self._broker.create(self._topics.specs(single_copy=True), 1)

    def _take_commands_back(self) -> None:
        topic = self._topics.commands
        end = self._broker.end_position(topic, 0)
        self._broker.rewind(topic, 0, self._random.randint(0, end))

    def _take_all_back(self) -> None:
        """Restore a backup of the broker: all topics go back to one time."""
        ends = self._random.choice(self._ends) if self._ends else self._ends_now()
        for topic, end in ends.items():
            self._broker.rewind(topic, 0, end)

    def _ends_now(self) -> dict[str, int]:
        topics = self._topics
        names = (topics.commands, topics.changelog, topics.volumes, topics.progress)
        return {name: self._broker.end_position(name, 0) for name in names}
