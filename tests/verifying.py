"""A verification in the simulated world: both sides answer in memory, while the world goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import TypeVar

from mirrorlog.consumers.verify.digest_server import DigestServer, SiteDigests
from mirrorlog.consumers.verify.verification_log import VerificationLog
from mirrorlog.consumers.verify.verifier import Verifier, VerifierPorts, VerifyOptions
from mirrorlog.domain.verifications import DigestAlgorithm, VerificationReport
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.world.host import BLOCK_BYTES
from mirrorlog.simulation.world.site import SITE
from mirrorlog.simulation.world.world import World

T = TypeVar("T")


class Interrupted(MemoryDevice):
    """A handle of a device. `between` is called before each range is read."""

    between: Callable[[], None]

    @classmethod
    def of(cls, device: MemoryDevice, between: Callable[[], None]) -> Interrupted:
        handle = cls(device.size_bytes)
        handle.__dict__.update(device.reopen(writable=False).__dict__)
        handle.between = between
        return handle

    def pread(self, *, offset: int, length: int) -> bytes:
        self.between()
        return super().pread(offset=offset, length=length)


class AnyOrder:
    """A TaskRunner that runs the tasks in an order that is drawn."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def run(self, tasks: Iterable[Callable[[], T]], on_done: Callable[[T], None]) -> None:
        drawn = list(tasks)
        self._random.shuffle(drawn)
        for task in drawn:
            on_done(task())


class VerifyingWorld:
    """A world, and the verification of one of its secondaries.

    between: called before each range of either side is read.
    """

    def __init__(
        self,
        world: World,
        name: str,
        *,
        between: Callable[[], None] = lambda: None,
        earlier: VerificationReport | None = None,
        ranges: int = 5,
        patience_s: float = 1e9,
    ) -> None:
        self.world, self.name, self.between = world, name, between
        self.clock = ManualClock(look_s=0.05)
        broker, topics = world.broker, world.settings.topics
        self.server = DigestServer(
            SiteDigests(
                by="machine",
                site=SITE,
                open_primary=self._open_primary,
                open_secondary=self._open_secondary,
                load_state=world.site.states.load,
                sides=AnyOrder(Random(name + str(ranges))),
            ),
            reader=world.site_broker.reader(),
            admin=world.site_broker,
            publisher=world.site_broker.publisher(),
            topic=topics.digests,
            answer_topic=topics.digests if world.mirror is None else topics.digest_answers,
        )
        volume = world.described(name)
        log = LogReader(broker.reader(), broker, topics.changelog, [0], site=SITE)
        self.log = VerificationLog(log, volume, SITE)
        self.publisher = broker.publisher()
        self.verifier = Verifier(
            VerifyOptions(
                volume=volume,
                site=SITE,
                algorithm=DigestAlgorithm.BLAKE2B_128,
                range_bytes=ranges * BLOCK_BYTES,
                patience_s=patience_s,
            ),
            VerifierPorts(
                reader=broker.reader(),
                admin=broker,
                publisher=self.publisher,
                log=self.log,
                topics=topics,
                clock=self.clock,
            ),
            earlier,
        )

    def _open_primary(self, volume: str) -> MemoryDevice:
        return Interrupted.of(self.world.host.primaries[volume], self.between)

    def _open_secondary(self, volume: str) -> MemoryDevice:
        return Interrupted.of(self.world.site.secondaries.devices[volume], self.between)

    def step(self, random: Random) -> None:
        """Let one of the two processes take a step."""
        if random.random() < 0.5:
            self.server.serve(0)
        else:
            self.verifier.step(0)

    def finish(self, act: Callable[[], None] = lambda: None, rounds: int = 3000) -> None:
        """Take steps until the verification is over, with one call of `act` between two."""
        for _ in range(rounds):
            if self.verifier.is_over:
                return
            self.server.serve(0)
            act()
            self.verifier.step(0)
            act()
        raise AssertionError(f"not over: {self.verifier.verification.unfinished()}")

    @property
    def different(self) -> set[int]:
        """The blocks that were found to differ."""
        return set(self.verifier.verification.findings.different)

    def flip(self, block: int) -> None:
        """Change a bit of the secondary behind everybody's back, durably."""
        device = self.world.site.secondary(self.name)
        offset = block * BLOCK_BYTES
        data = bytearray(device.pread(offset=offset, length=BLOCK_BYTES))
        data[7] ^= 1
        device.pwrite(offset, bytes(data))
        device.flush()
