"""Chains of manifests: what of a partition is archived, and which chains are one line. Pure.

The manifests of one history of one partition are a chain. Each begins where the one before ended,
so the chain proves that nothing between its begin and its end is missing. Two chains of one Kafka
topic are parts of one *line*: the later history goes on where the topic went back to. What the
earlier chain holds above that is kept, and is *superseded*: those commands were acknowledged, and
the topic lost them (docs/decisions/histories.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mirrorlog.archive.manifests import Manifest, digest_of
from mirrorlog.domain.histories import History
from mirrorlog.errors import StateDamaged


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest, the name of its object, and the SHA-256 of its bytes."""

    name: str
    sha256: str
    manifest: Manifest

    @classmethod
    def of(cls, name: str, content: bytes, manifest: Manifest) -> StoredManifest:
        """Return the manifest that was read from, or written to, these bytes."""
        return cls(name, digest_of(content), manifest)


@dataclass(frozen=True, slots=True)
class Chain:
    """The manifests of one partition in one history, in the order of positions; at least one.

    after: the position behind which the chain begins, whether its first manifests are here or not.
    """

    stored: tuple[StoredManifest, ...]
    after: int

    @classmethod
    def of(cls, stored: Sequence[StoredManifest], *, begins_after: int | None = None) -> Chain:
        """Return the chain of these manifests, which are in order.

        begins_after: where the chain begins, if its first manifests aren't among them. Raise
        StateDamaged if they don't form a chain: one is missing or was replaced.
        """
        if begins_after is None and stored[0].manifest.previous_sha256 is not None:
            raise _broken(stored[0], "the manifest before it is missing")
        for before, item in pairwise(stored):
            if item.manifest.after != before.manifest.through:
                reason = f"it begins behind position {item.manifest.after}, and the one before "
                raise _broken(item, f"{reason}ends at {before.manifest.through}")
            if item.manifest.previous_sha256 != before.sha256:
                raise _broken(item, "the manifest before it was replaced")
        after = stored[0].manifest.after if begins_after is None else begins_after
        return cls(tuple(stored), after)

    @property
    def manifests(self) -> Iterator[Manifest]:
        """The manifests."""
        return (stored.manifest for stored in self.stored)

    @property
    def first(self) -> Manifest:
        """The first manifest."""
        return self.stored[0].manifest

    @property
    def last(self) -> Manifest:
        """The last manifest."""
        return self.stored[-1].manifest

    @property
    def history(self) -> History:
        """The history to which the chain's positions belong."""
        return self.first.history

    @property
    def through(self) -> int:
        """The position at which it ends."""
        return self.last.through


@dataclass(frozen=True, slots=True)
class ClippedChain:
    """The part of a chain that belongs to a line: the positions up to `through`."""

    chain: Chain
    through: int


def _broken(item: StoredManifest, reason: str) -> StateDamaged:
    return StateDamaged(
        f"the archive's chain is broken: {reason}",
        where=f"{item.name}, partition {item.manifest.partition}, "
        f"behind position {item.manifest.after}",
        next="Restore the manifests from a copy of the archive.",
    )


def line_of(chains: Sequence[Chain], topic: str | None) -> list[ClippedChain]:
    """Return the chains whose positions are those of one Kafka topic, each without what is
    superseded, in the order of positions.

    chains: of one partition, by epoch. topic: Kafka's id of the commands topic.
    """
    clipped: list[ClippedChain] = []
    begin: int | None = None
    for chain in reversed([chain for chain in chains if chain.history.topic == topic]):
        through = chain.through if begin is None else min(chain.through, begin)
        if through > chain.after:
            clipped.append(ClippedChain(chain, through))
        begin = chain.after if begin is None else min(begin, chain.after)
    return clipped[::-1]


def missing_in(line: Sequence[ClippedChain], *, after: int, through: int) -> list[tuple[int, int]]:
    """Return the ranges (after, through] in `(after, through]` that the line doesn't hold.

    Ranges that a manifest calls a hole are missing, too.
    """
    missing: list[tuple[int, int]] = []
    reached = after
    for part in line:
        for manifest in part.chain.manifests:
            begin, end = max(manifest.after, reached), min(manifest.through, part.through, through)
            if manifest.hole is not None or end <= begin:
                continue
            if begin > reached:
                missing.append((reached, begin))
            reached = end
    if reached < through:
        missing.append((reached, through))
    return missing
