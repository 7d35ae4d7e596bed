"""One process at a time runs a site (mirrorlog/domain/site_leases.py has the rules).

Several workers of one site (workers/) share the name: their leases have one run. The first of them
takes it, and any of them publishes the lease if it hears it from no other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.site_leases import (
    LeaseStep,
    SiteLease,
    first_step,
    has_lost,
    is_own_past,
    lease_key,
)
from mirrorlog.errors import BadInput, BadUse, KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, Publisher, TopicAdmin, TopicReader, known_position
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience

log = logging.getLogger("mirrorlog.site")

BEAT_S: Final = 3.0
"""How often a lease is published again, and how often others are looked for."""
SILENT_S: Final = 12.0
"""After so many seconds without a lease, a process counts as dead."""
_END_S: Final = 5.0
_PARTITION: Final = 0


@dataclass(frozen=True, slots=True)
class FencePorts:
    """What a fence needs. topic: the progress topic. The publisher isn't closed by the fence."""

    reader: TopicReader
    admin: TopicAdmin
    publisher: Publisher
    clock: Clock
    topic: str
    patience_s: float


class TakenName(NamedTuple):
    """The name of a site, as the first of several workers has taken it for all of them.

    run, term: of their leases. position: of the first of these leases.
    """

    run: str
    term: int
    position: int


class Fellows(Protocol):
    """The workers that share the name with this process. They publish one lease for all."""

    def delay_s(self) -> float:
        """Return for how much longer than BEAT_S this process lets others publish the lease."""
        ...

    def note_caught_up(self, at_s: float) -> None:
        """Note that this process had taken all of its partitions' log at a monotonic time."""
        ...

    def caught_up_at_s(self) -> float | None:
        """Return when all of the log had been taken, by whichever process; None: not known.

        It is called about once a second.
        """
        ...


class NoFellows:
    """The fellows of a process that runs its site alone."""

    def __init__(self) -> None:
        self._at_s: float | None = None

    def delay_s(self) -> float:
        """Return 0."""
        return 0.0

    def note_caught_up(self, at_s: float) -> None:
        """Note the time."""
        self._at_s = at_s

    def caught_up_at_s(self) -> float | None:
        """Return the time that was noted."""
        return self._at_s


class NameFence:
    """Holds the name of a site for this process, and its fellows. One thread calls it."""

    def __init__(self, lease: SiteLease, ports: FencePorts, fellows: Fellows | None = None) -> None:
        """Hold nothing yet. lease: of this process; its term doesn't count."""
        self._lease, self._ports = lease, ports
        self._fellows: Final = fellows or NoFellows()
        self._key: Final = lease_key(lease.site)
        patience = ReadPatience(ports.clock, ports.patience_s, "looking who runs the site")
        self._topic = CompactedTopic(ports.reader, ports.admin, ports.topic, patience)
        self._position: int | None = None
        self._last: SiteLease | None = None
        self._looked_at_s = self._beat_at_s = 0.0
        self._heard_at_s = float("-inf")

    def take(self) -> None:
        """Take the name. It may take SILENT_S if the last process died elsewhere.

        Raise BadUse if another process runs the site, KafkaFailed if Kafka doesn't answer.
        """
        self.check_free()
        self._take_after(self._last)

    def join(self, name: TakenName) -> None:
        """Share the name that a fellow on this machine has taken.

        Raise BadUse if another process has it now, or if the fellow is on another machine: its
        monotonic times and its locks of devices say nothing here.
        """
        self._lease = replace(self._lease, run=name.run, term=name.term)
        messages = list(self._topic.read_to_end())
        leases = [lease for message in messages if (lease := self._lease_in(message)) is not None]
        for lease in leases:
            if lease.run == name.run and not _may_be_here(lease.machine, self._lease.machine):
                raise self._elsewhere(lease)
        self._position = name.position
        self._take_in(messages)

    def taken(self) -> TakenName:
        """Return the name for fellows that join. It was taken or joined."""
        assert self._position is not None
        return TakenName(self._lease.run, self._lease.term, self._position)

    def check_free(self) -> None:
        """Listen until it is known that nobody else runs the site. Publish nothing.

        It takes as long as take(), and raises the same.
        """
        clock = self._ports.clock
        for message in self._topic.read_to_end():
            self._last = self._lease_in(message) or self._last
        listens_since_s, heard = clock.monotonic_s(), False
        while True:
            step = first_step(
                self._last,
                folder=self._lease.folder,
                machine=self._lease.machine,
                heard=heard,
                silent_s=clock.monotonic_s() - listens_since_s,
                limit_s=SILENT_S,
            )
            if step is not LeaseStep.LISTEN:
                break
            for message in self._topic.poll(0.5):
                if (lease := self._lease_in(message)) is not None:
                    self._last, heard = lease, not lease.is_over
        if step is LeaseStep.REFUSE:
            assert self._last is not None
            raise self._refusal(self._last)

    def keep(self) -> None:
        """Publish the lease again, and look whether another process has taken the name.

        Call it at least once a round and while blocks are copied; it does nothing most times.
        Raise BadUse if another process runs the site now, or if it was removed: nothing more may
        be written.
        """
        now_s = self._ports.clock.monotonic_s()
        if now_s - self._looked_at_s < BEAT_S / 3:
            return
        self._looked_at_s = now_s
        self._take_in(self._topic.poll(0))
        caught_up_at_s = self._fellows.caught_up_at_s()
        last_s = max(self._beat_at_s, self._heard_at_s)
        if now_s - last_s >= BEAT_S + self._fellows.delay_s():
            self._beat_at_s = now_s
            age_s = None if caught_up_at_s is None else max(0.0, now_s - caught_up_at_s)
            self._publish(replace(self._lease, caught_up_age_s=age_s))

    def note_caught_up(self, age_s: float = 0.0) -> None:
        """Note that the site has taken everything that the log held so many seconds ago.

        The next lease says how long ago that was. So a volume of which the site publishes nothing
        is known to be as it was reported.
        """
        self._fellows.note_caught_up(self._ports.clock.monotonic_s() - age_s)

    def give_up(self) -> None:
        """Say that the site has ended here, so that the next process needn't wait."""
        if self._position is not None:
            self._publish(replace(self._lease, is_over=True))
            with suppress(KafkaFailed):
                self._ports.publisher.flush(_END_S)

    def _take_after(self, last: SiteLease | None) -> None:
        """Publish the first lease with the next term, and check that none was earlier."""
        self._lease = replace(self._lease, term=1 if last is None else last.term + 1)
        acknowledged: list[int | None] = []
        self._ports.publisher.publish(
            self._ports.topic,
            _PARTITION,
            self._key,
            encode(self._lease),
            acknowledged.append,
        )
        self._ports.publisher.flush(self._ports.patience_s)
        where = f"topic {self._ports.topic}"
        self._position = known_position(acknowledged[0], what="the site's lease", where=where)
        self._take_in(list(self._topic.read_to_end()))
        if (
            last is not None
            and not last.is_over
            and not is_own_past(last, folder=self._lease.folder, machine=self._lease.machine)
        ):
            log.warning(
                "%s was run by %s, which is gone: this process continues it",
                self._lease.site,
                last.describe(),
            )

    def _take_in(self, messages: Iterable[Message]) -> None:
        assert self._position is not None
        for message in messages:
            lease = self._lease_in(message)
            if lease is not None and self._is_fellows(lease):
                self._heard_at_s = self._ports.clock.monotonic_s()
            if lease is not None and has_lost(self._lease, self._position, lease, message.position):
                self._position = None  # the name is the other's: nothing is published any more
                raise self._refusal(lease)
            if self._is_removal(message) and message.position > self._position:
                self._position = None
                raise self._removal()

    def _lease_in(self, message: Message) -> SiteLease | None:
        """Return the lease of this site that the message holds, or None."""
        if message.key != self._key or message.value is None:
            return None
        try:
            return decode(message.value, SiteLease)
        except BadInput as error:
            log.error("a lease of %s can't be read: %s", self._lease.site, error)
            return None

    def _is_removal(self, message: Message) -> bool:
        """Return whether an operator removed the site: its lease was deleted."""
        return message.key == self._key and message.value is None

    def _is_fellows(self, lease: SiteLease) -> bool:
        """Return whether a fellow has published the lease."""
        own = self._lease
        return lease.run == own.run and _process(lease) != _process(own)

    def _publish(self, lease: SiteLease) -> None:
        self._ports.publisher.publish(self._ports.topic, _PARTITION, self._key, encode(lease))

    def _elsewhere(self, fellow: SiteLease) -> BadUse:
        site = self._lease.site
        return BadUse(
            f"the workers of site {site} run on another machine: {fellow.describe()}",
            where=f"site {site}",
            next="All workers of a site run on one machine. Start this one there, or run a site of "
            "another name here, and share the volumes with --volumes GLOB.",
        )

    def _removal(self) -> BadUse:
        site = self._lease.site
        return BadUse(
            f"the site {site} was removed while this process was silent (`mirrorlog site remove`)",
            where=f"site {site}",
            next="Leave it so, or start the site again. It then copies what the log names, and all "
            "that is allocated if the log no longer reaches back to where the site was.",
        )

    def _refusal(self, other: SiteLease) -> BadUse:
        return BadUse(
            f"the site {self._lease.site} is run by another process: {other.describe()}",
            where=f"site {self._lease.site}",
            next="Stop that one, or give this one a name of its own. If it died elsewhere, start "
            f"this one again after {SILENT_S:g} s.",
        )


def _may_be_here(machine: str, own: str) -> bool:
    """Return whether two ids may be of one machine. An empty one isn't known."""
    return not machine or not own or machine == own


def _process(lease: SiteLease) -> tuple[str, int, int]:
    return lease.host, lease.pid, lease.started_at_us
