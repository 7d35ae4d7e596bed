"""FailoverWorld: three copies of one volume, of which any may become the primary.

The node and the sites are the real ones. Each copy has a site of its own; that of the primary keeps
off it. Each promotion begins a term. The model knows what every term's primary held as of each
position, and holds it against every claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.consumers.failover.rejoining import promotion_that_ended, rejoining_state
from mirrorlog.consumers.state.pauses import Pauses
from mirrorlog.consumers.state.secondary_state import SecondaryIdentity
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.promotions import PromotionCommand
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.catalog import publish_volume
from mirrorlog.simulation.world.crashes import Fuse
from mirrorlog.simulation.world.failover_parts import (
    COPIES,
    NAME,
    CopiedVolume,
    CopySite,
    Term,
    Writer,
)
from mirrorlog.simulation.world.host import BLOCK_BYTES, BLOCKS, SIZE_BYTES
from mirrorlog.simulation.world.node import NodeModel

_MAX_ROUNDS: Final = 300


class FailoverWorld(CopiedVolume):
    """One volume with three copies, a node, a site for each copy, and the hosts that come and go.

    seed: two worlds with one seed take the same steps. A check that fails raises AssertionError.

    copies: the devices. terms: by generation. writers: hosts that haven't ended.
    unreachable: copies that no site can read. primary_marks: copies that are marked as a primary.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        volume = self.volume
        publisher = self.broker.publisher()
        publish_volume(publisher, self.settings.topics, volume)
        publisher.flush(1)
        self.terms = {volume.generation: Term("a", volume.generation, -1, {}, None, None)}
        self.writers = [Writer(self, "a", self.draw_id())]
        self.node = NodeModel(self.broker, self.settings, Fuse(), self.random)
        self.sites = {copy: CopySite(self, copy) for copy in COPIES}

    # What the roles do

    def act(self) -> None:
        """Take one step of one role, drawn, then check every claim."""
        acts: dict[Callable[[], object], float] = {
            self.write: 30,
            self.publish: 12,
            self.fold: 16,
            self.look: 4,
            self.run_a_site: 30,
            self.toggle_reach: 2,
            self.promote_one: 1.5,
            self.promote_two: 0.7,
            self.rejoin_one: 3,
            self.crash_writer: 1,
            self.renew: 0.5,
            self.node.maintain: 4,
        }
        self.random.choices(list(acts), list(acts.values()))[0]()
        self.check_claims()

    def write(self) -> None:
        """Let a host write a few blocks."""
        if self.writers:
            writer, first = self.random.choice(self.writers), self.random.randrange(BLOCKS)
            for block in range(first, min(first + self.random.randint(1, 3), BLOCKS)):
                writer.write(block)

    def publish(self) -> None:
        """Let a host publish what it wrote."""
        if self.writers:
            self.random.choice(self.writers).publish()

    def look(self) -> None:
        """Let a host read the description."""
        if self.writers:
            self.random.choice(self.writers).look()

    def fold(self) -> None:
        """Let the node fold a few commands."""
        self.node.fold(self.random.randint(1, 12))
        self.node.commit()

    def run_a_site(self) -> None:
        """Run a round of a site. It may crash."""
        self.random.choice(list(self.sites.values())).run(self.random)

    def toggle_reach(self) -> None:
        """Let a copy burn, or come back."""
        self.unreachable ^= {self.random.choice(COPIES)}

    def crash_writer(self) -> None:
        """Let a host die and be recovered; another one opens the primary."""
        if self.writers:
            writer = self.writers.pop(self.random.randrange(len(self.writers)))
            writer.crash_and_recover()
            self.open_primary()

    def open_primary(self) -> None:
        """Let a host open the primary, unless one has it open."""
        volume = self.described()
        copy = volume.primary.removeprefix("memory://")
        term = self.terms[volume.generation]
        if not any(self.terms[writer.volume.generation] is term for writer in self.writers):
            self.writers.append(Writer(self, copy, self.draw_id()))

    def renew(self) -> None:
        """Let an operator renew the generation: the term goes on, and promotions are forgotten."""
        volume = self.described()
        command = TrackingCommand(
            volume=NAME,
            generation=volume.generation,
            host="operator",
            session=self.draw_id(),
            sequence=-1,
            kind=CommandKind.NEW_GENERATION,
            extents=ExtentColumns.of([]),
            first_at_us=1,
            last_at_us=1,
            new_generation=self.draw_id(),
        )
        self.append(command)
        self.fold_all()
        self.terms[self.described().generation] = self.terms[volume.generation]

    # Failing over

    def promote_one(self) -> None:
        """Promote a secondary, whatever it is worth."""
        self.promote(self.random.choice(COPIES), force=self.random.random() < 0.3)

    def promote_two(self) -> None:
        """Promote two secondaries at once: both name the same generation. One wins."""
        volume = self.described()
        sites = [copy for copy in COPIES if copy != volume.primary_site]
        self.random.shuffle(sites)
        sent = [self._send_promotion(copy, volume, force=True) for copy in sites]
        self.fold_all()
        winners = [copy for copy in sites if self.described().primary_site == copy]
        assert len(winners) == any(command is not None for command in sent)
        if winners:
            ended = self.described().promotions[-1].former_generation
            assert ended == volume.generation, "the other promotion was recorded, too"
        for copy, command in zip(sites, sent, strict=True):
            self._finish(copy, command)

    def promote(self, copy: str, *, force: bool = False) -> bool:
        """Promote the secondary of a site, as `mirrorlog promote` does; False if it can't be."""
        volume = self.described()
        if copy == volume.primary_site:
            return False
        command = self._send_promotion(copy, volume, force=force)
        self.fold_all()
        return self._finish(copy, command)

    def _send_promotion(self, copy: str, volume: Volume, *, force: bool) -> PromotionCommand | None:
        """Let the site let go, and send the command; None if the secondary isn't consistent."""
        site = self.sites[copy]
        if copy in self.primary_marks:
            return None
        site.pauses = Pauses(volumes=frozenset({NAME}))
        self.fold_all()
        claim = site.claim(volume)
        if claim.consistent_position is None and not force:
            site.pauses = Pauses()
            return None
        if claim.consistent_position is not None:
            self._check_copy(copy, volume.generation, claim.consistent_position)
        command = PromotionCommand(
            volume=NAME,
            generation=volume.generation,
            host="operator",
            session=self.draw_id(),
            sequence=-1,
            kind=CommandKind.PROMOTE,
            extents=ExtentColumns.of([]),
            first_at_us=1,
            last_at_us=1,
            new_generation=self.draw_id(),
            site=copy,
            primary=f"memory://{copy}",
            primary_id=self.draw_id(),
            parted_position=claim.parted_position,
        )
        self.append(command)
        return command

    def _finish(self, copy: str, command: PromotionCommand | None) -> bool:
        """Begin the term if the promotion won, and let a host open the new primary."""
        site, volume = self.sites[copy], self.described()
        is_primary = command is not None and volume.generation == command.new_generation
        if is_primary:
            former = self.terms[volume.promotions[-1].former_generation]
            self.terms[volume.generation] = Term(
                copy,
                volume.generation,
                volume.promotions[-1].position,
                self.held(copy),
                former,
                volume.promotions[-1].parted_position,
            )
            self.primary_marks.add(copy)
            site.secondaries.restore_mark(NAME, None)
            self.open_primary()
        site.pauses = Pauses()
        return is_primary

    def rejoin_one(self) -> None:
        """Let a former primary follow the new one, as `mirrorlog rejoin` does."""
        former = [term.copy for term in self.terms.values()]
        self.rejoin(self.random.choice(former))

    def rejoin(self, copy: str) -> bool:
        """Let a former primary follow the new one; False if it does already, or is the primary."""
        volume, site = self.described(), self.sites[copy]
        if copy == volume.primary_site or copy not in self.primary_marks:
            return False
        for writer in [writer for writer in self.writers if writer.copy == copy]:
            writer.crash_and_recover()
            self.writers.remove(writer)
        ended = next(
            generation for generation, term in reversed(self.terms.items()) if term.copy == copy
        )
        promotion = volume.promotion_ending(ended)
        if promotion is not None:
            assert promotion == promotion_that_ended(
                volume, primary_id=promotion.former_primary_id, address=f"memory://{copy}"
            )
        device = self.copies[copy]
        identity = SecondaryIdentity(
            secondary_id=self.draw_id(),
            epoch=0,
            size_bytes=SIZE_BYTES,
            lasting=device.identity.lasting,
        )
        state = None if promotion is None else rejoining_state(volume, promotion, identity)
        mark = SecondaryMark(secondary_id=identity.secondary_id, site=copy, volume=NAME, epoch=0)
        site.secondaries.restore_mark(NAME, mark)
        if state is not None:
            site.states.save(state)
        self.primary_marks.remove(copy)
        return True

    # The end

    def finish(self) -> None:
        """Let everybody know everything, and check that all copies are equal in the end."""
        self.unreachable.clear()
        self.fold_all()
        self.open_primary()
        for writer in self.writers:
            writer.look()
        for copy in COPIES:
            self.rejoin(copy)
        for writer in self.writers:
            writer.end()
        self.writers.clear()
        for _ in range(_MAX_ROUNDS):
            self.fold_all()
            for site in self.sites.values():
                site.run()
            self.check_claims()
            if all(self._is_quiet(site) for site in self.sites.values()):
                break
        else:
            raise AssertionError(f"not consistent: {self._statuses()}")
        self.check_log()
        primary = self.described().primary.removeprefix("memory://")
        for copy in COPIES:
            assert self.held(copy) == self.held(primary), copy

    def _is_quiet(self, site: CopySite) -> bool:
        secondary = site.site.secondaries.get(NAME)
        final = (SiteState.CONSISTENT, SiteState.DETACHED)
        return secondary is not None and secondary.state in final

    def _statuses(self) -> Mapping[str, object]:
        return {
            name: site.site.secondaries[NAME].status
            for name, site in self.sites.items()
            if NAME in site.site.secondaries
        }

    def fold_all(self) -> None:
        """Let the node fold all commands."""
        while self.node.fold(50):
            self.node.commit()

    # Checks

    def check_log(self) -> None:
        """Check that the log since its begin has no hole, and names all that commands name."""
        volume, log = self.described(), self.read_log()
        after, through = volume.origin_position, log.watermarks[0].through
        named = BlockSet()
        for message in self.broker.messages(self.settings.topics.commands):
            command = decode(message.value or b"", TrackingCommand)
            for extent in command.extents if message.position > after else ():
                first = extent.offset // BLOCK_BYTES
                named.add_range(first, first + extent.length // BLOCK_BYTES)
        assert log.logs[NAME].hole(after=after, through=through) is None
        assert named.issubset(log.logs[NAME].changed(after=after, through=through))

    def check_claims(self) -> None:
        """Check what is saved as consistent, and that one copy alone is written under a term."""
        for copy, site in self.sites.items():
            secondary = site.site.secondaries.get(NAME)
            if secondary is None or secondary.saved is None or not secondary.is_met:
                continue
            saved = secondary.saved
            if saved.consistent_position is not None and copy not in self.primary_marks:
                self._check_copy(copy, saved.generation, saved.consistent_position)

    def _check_copy(self, copy: str, generation: str, position: int) -> None:
        """Check that a copy holds what the volume held as of a position, by a generation."""
        held, expected = self.held(copy), self.terms[generation].versions_at(position)
        assert held == expected, (
            f"{copy} isn't the volume as of {position}: "
            f"{ {block for block in range(BLOCKS) if held.get(block) != expected.get(block)} }"
        )
