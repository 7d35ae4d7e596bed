"""Which secondaries the writes of a volume go to, and when a write is acknowledged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse

_ALL_SECONDARIES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class ForkMode:
    """The mode of a fork. A write is acknowledged when `waits_for` secondaries have it.

    If fewer secondaries are in the fork, all of these must have it.
    """

    name: str
    waits_for: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sync`, `async` or `quorum N`. Raise BadUse for anything else."""
        words = text.split()
        match words:
            case ["sync"]:
                return cls("sync", _ALL_SECONDARIES)
            case ["async"]:
                return cls("async", 0)
            case ["quorum", count] if count.isdecimal() and 1 <= int(count) < _ALL_SECONDARIES:
                return cls(f"quorum {int(count)}", int(count))
        raise BadUse(
            f"'{text[:100]}' is not a mode of forked writes",
            next="Use sync, async or 'quorum N' with N from 1 on.",
        )

    @property
    def blocks_writer(self) -> bool:
        """Return whether a writer waits for a secondary that has no room for one more write.

        Otherwise such a secondary leaves the fork.
        """
        return self.waits_for == _ALL_SECONDARIES


@dataclass(frozen=True, slots=True)
class ForkPlan:
    """The secondaries that a volume's writes go to. secondaries: addresses, by site."""

    secondaries: Mapping[str, str]
    mode: ForkMode


def fork_plans(given: Sequence[str], mode: str, volumes: Collection[Volume]) -> dict[str, ForkPlan]:
    """Return the plan of each volume, by its name; an empty dict if `given` is empty.

    given: each `SITE` or `SITE=URI`. `{volume}` in a URI stands for the volume's name. Without a
    URI the address comes from the volume's description.

    Raise BadUse if a secondary has no address, or if two secondaries have the same one.
    """
    parsed = ForkMode.parse(mode)
    plans = {
        volume.volume: ForkPlan(dict(_secondary(fork, volume) for fork in given), parsed)
        for volume in volumes
    }
    addresses = [address for plan in plans.values() for address in plan.secondaries.values()]
    if twice := sorted({address for address in addresses if addresses.count(address) > 1}):
        raise BadUse(
            "two secondaries have one address",
            where=twice[0],
            next="Use {volume} in the address: it stands for the volume's name.",
        )
    return plans if given else {}


def _secondary(fork: str, volume: Volume) -> tuple[str, str]:
    """Return (site, address)."""
    site, is_given, address = fork.partition("=")
    if not is_given:
        address = volume.secondaries.get(site, "")
    if not site or not address:
        raise BadUse(
            f"volume {volume.volume} has no address for a secondary at '{site[:220]}'",
            next="Give it as SITE=URI, or when the volume is created (--secondary SITE=URI).",
        )
    return site, address.replace("{volume}", volume.volume)
