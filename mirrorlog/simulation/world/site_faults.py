"""What a hostile world does to a site's secondaries, primaries and state folder while it is down.

Each fault happens between a crash of the site and its next start. Some stay until mend() is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final
from uuid import UUID

from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.errors import BadUse
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.world.host import BLOCK_BYTES, BLOCKS, SIZE_BYTES
from mirrorlog.simulation.world.site import SiteModel


@dataclass(frozen=True, slots=True)
class _Backup:
    """A copy of a secondary with its mark, and of its saved state."""

    content: bytes
    mark: SecondaryMark | None
    state: bytes | None


class SiteFaults:
    """The faults of one site. random: draws which one happens, and to which volume."""

    def __init__(self, site: SiteModel, random: Random) -> None:
        self._site, self._random = site, random
        self._backups: Final[dict[str, list[_Backup]]] = {}
        self._kept: Final[dict[str, MemoryDevice]] = {}
        self.happened: Final[set[str]] = set()
        self._faults: Final[dict[str, Callable[[str], None]]] = {
            "secondary lost": self._lose_secondary,
            "secondary truncated": self._truncate_secondary,
            "secondary swapped": self._swap_secondary,
            "secondary restored": self._restore_secondary,
            "mark lost": lambda name: self._site.secondaries.restore_mark(name, None),
            "mark of another site": self._mark_foreign,
            "state restored": self._restore_state,
            "state lost": lambda name: self._site.states.restore(name, None),
            "primary truncated": self._truncate_primary,
            "primary swapped": self._swap_primary,
        }

    def back_up(self) -> None:
        """Copy a secondary, its mark and its state, while the site runs."""
        name = self._draw()
        device = self._site.secondaries.devices.get(name)
        if device is not None:
            opened = device.reopen(writable=False)
            backup = _Backup(
                opened.pread(offset=0, length=opened.size_bytes),
                self._site.secondaries.marks.get(name),
                self._site.states.contents.get(name),
            )
            self._backups.setdefault(name, []).append(backup)

    def strike(self) -> None:
        """Let the site die, let one fault happen, and start the site again."""
        self._site.lose_power()
        fault, name = self._random.choice(list(self._faults)), self._draw()
        if name not in self._kept and name not in self._site.seen_primaries:
            self._faults[fault](name)
        self._site.start()

    def mend(self) -> None:
        """Undo all faults that an operator has to undo."""
        self._site.lose_power()
        secondaries = self._site.secondaries
        secondaries.devices.update(self._kept)
        self._kept.clear()
        self._site.seen_primaries.clear()
        for name, device in secondaries.devices.items():
            mark = secondaries.marks.get(name)
            if mark is not None and mark.site != self._site.name:
                secondaries.restore_mark(name, None)
            saved = self._site.states.load(name)
            is_forgotten = saved is None or saved.applied_position is saved.copied_bytes is None
            if device.size_bytes < SIZE_BYTES and is_forgotten:
                # Its operator makes it longer when the site has reported that it is too short.
                device.truncate(SIZE_BYTES)
        self._site.start()

    def run_twice(self) -> None:
        """Pause the site, start it elsewhere without its state, and let the paused one go on."""
        if self._site.seen_primaries:
            return  # a site without a state takes any primary for the right one
        paused, clock = self._site.site, self._site.clock
        for name in self._site.volumes:
            self._site.states.restore(name, None)
        self._site.start(folder=UUID(int=self._random.getrandbits(128)))
        clock.now_s += 60
        try:
            paused.run_once(0)
        except BadUse:
            self.happened.add("site twice")
        else:
            raise AssertionError("two processes run one site")

    def _draw(self) -> str:
        return self._random.choice(list(self._site.volumes))

    def _lose_secondary(self, name: str) -> None:
        self.happened.add("secondary lost")
        self._kept[name] = self._site.secondaries.devices.pop(name)

    def _truncate_secondary(self, name: str) -> None:
        self.happened.add("secondary truncated")
        device = self._site.secondaries.devices[name]
        device.truncate(self._random.randrange(BLOCKS) * BLOCK_BYTES)
        if self._random.random() < 0.5:
            self._kept[name] = device  # it is made longer only when its operator comes

    def _swap_secondary(self, name: str) -> None:
        self.happened.add("secondary swapped")
        other = self._device(self._random.randbytes(SIZE_BYTES))
        other.hook = self._site.secondaries.devices[name].hook
        self._site.secondaries.devices[name] = other
        if self._random.random() < 0.5:
            self._site.secondaries.restore_mark(name, None)

    def _restore_secondary(self, name: str) -> None:
        """Write a backup over the secondary, with its mark, or put a copy in its place without."""
        if not self._backups.get(name):
            return
        self.happened.add("secondary restored")
        backup = self._random.choice(self._backups.pop(name))
        device = self._site.secondaries.devices[name]
        if self._random.random() < 0.5:
            opened = device.reopen()
            opened.truncate(len(backup.content))
            opened.pwrite(0, backup.content)
            opened.flush()
            self._site.secondaries.restore_mark(name, backup.mark)
        else:
            copy = self._device(backup.content)
            copy.hook = device.hook
            self._site.secondaries.devices[name] = copy

    def _mark_foreign(self, name: str) -> None:
        self.happened.add("mark of another site")
        other = SecondaryMark(secondary_id=str(UUID(int=1)), site="other", volume=name)
        self._site.secondaries.restore_mark(name, other)

    def _restore_state(self, name: str) -> None:
        states = [backup.state for backup in self._backups.pop(name, ())]
        if states:
            self.happened.add("state restored")
            self._site.states.restore(name, self._random.choice(states))

    def _truncate_primary(self, name: str) -> None:
        self.happened.add("primary truncated")
        self._site.seen_primaries[name] = self._device(
            self._random.randbytes(self._random.randrange(1, BLOCKS) * BLOCK_BYTES)
        )

    def _swap_primary(self, name: str) -> None:
        saved = self._site.states.load(name)
        if saved is None or saved.identity is None or saved.identity.primary is None:
            return  # the site has never seen the primary: it has nothing to compare with
        self.happened.add("primary swapped")
        self._site.seen_primaries[name] = self._device(self._random.randbytes(SIZE_BYTES))

    def _device(self, content: bytes) -> MemoryDevice:
        device = MemoryDevice(len(content))
        device.pwrite(0, content)
        device.flush()
        return device
