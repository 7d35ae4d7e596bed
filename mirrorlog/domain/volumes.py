"""The description of a volume: its size, blocks and generation, and the addresses of its copies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.domain.histories import NO_EPOCH, History
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.promotions import Promotion
from mirrorlog.errors import BadUse

VOLUME_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
MIN_BLOCK_BYTES: Final = 512
MAX_ENDED_SESSIONS: Final = 32
MAX_BLOCK_BYTES: Final = 1 << 26
MAX_BLOCKS: Final = 1 << 38
"""1 PiB in blocks of 4 KiB, 8 EiB in blocks of 32 MiB. If all blocks change, in no order, their
bitmap takes 32 GiB: parts of half a megabyte, of which the key of a record can number 65,535."""
MAX_RESIZES: Final = 10_000
"""How often a volume may grow: the description names each earlier size."""
DESCRIPTION_MAX_BYTES: Final = 800_000
"""A description is one message. Kafka takes 1 MiB unless a topic or the cluster says otherwise."""
_EARLIER_SIZE_BYTES: Final = 20
_PROMOTION_BYTES: Final = 130
"""Of the numbers and UUIDs of a promotion."""


class VolumeState(StrEnum):
    """The state of a volume (domain/volume_states.py).

    An older reader sees UNKNOWN for a state that it doesn't know.
    """

    ACTIVE = "ACTIVE"
    RETIRED = "RETIRED"  # no host writes to it any more, and sites don't follow it
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierSize:
    """The size that the volume had for commands below `before_position`."""

    before_position: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume as a message on the topic `mirrorlog.volumes` describes it. The newest message wins.

    generation: a UUID, renewed whenever the volume's history is broken.
    block_size: bytes, a power of two: the granularity of tracking.
    partition: of the commands topic and of the changelog. It is fixed at creation, and its
    positions order the volume's commands.
    origin_position: the log names everything that changed after it.
    initially_zeroed: every block was known to read as zeros at the origin. A new zeroed secondary
    equals the volume there.
    primary: the address of the primary.
    secondaries: by site, the address of its secondary.
    keep_s: by tier (second, minute, hour, day), how long the log keeps the volume's records. The
    node's settings apply to the other tiers.
    shared: two hosts may write to the volume at once.
    described_position: of the last command that changed the description; -1 before the first.
    Commands at or below it are part of the description already.
    earlier_sizes: oldest first. With them a command means the same whenever it is read: see as_of.
    cluster: the id of the Kafka cluster whose positions the description names; None if unknown.
    history_id, epoch, topic_id: the history of the partition to which all positions here belong,
    and Kafka's id of the commands topic in it. None and NO_EPOCH: the node hasn't met the volume
    yet, and the positions belong to the history that the partition has.
    first_created_at_us: when the volume was created; None if its generation was never renewed, for
    created_at_us is that time then. A renewal sets created_at_us, because the log begins there.
    ended_sessions: sessions of hosts from which the volume was taken over, the newest last, at most
    MAX_ENDED_SESSIONS. A host whose session is one of them writes no more.
    recorded_since_us: when the oldest recording that was imported into the log begins, in
    microseconds since 1970; None if none was. Questions about times then go by the writes' own
    times (docs/decisions/own-times.md).
    group: the consistency group. Volumes that name the same one are copied as of one common point
    (docs/decisions/consistency-groups.md). None: it is in no group.
    authenticated_after: commands behind this position count only with the code of a host key that
    may touch the volume (domain/host_keys.py). None: no command needs one.
    """

    volume: str
    generation: str
    size_bytes: int
    block_size: int
    partition: int
    origin_position: int
    initially_zeroed: bool
    primary: str
    secondaries: Mapping[str, str] = field(default_factory=dict)
    created_at_us: int = 0
    state: VolumeState = VolumeState.ACTIVE
    keep_s: Mapping[str, int] = field(default_factory=dict)
    shared: bool = False
    described_position: int = BEFORE_FIRST
    earlier_sizes: tuple[EarlierSize, ...] = ()
    cluster: str | None = None
    history_id: str | None = None
    epoch: int = NO_EPOCH
    topic_id: str | None = None
    first_created_at_us: int | None = None
    ended_sessions: tuple[str, ...] = ()
    log_generation: str | None = None
    primary_site: str | None = None
    primary_id: str | None = None
    promotions: tuple[Promotion, ...] = ()
    group: str | None = None
    recorded_since_us: int | None = None
    authenticated_after: int | None = None

    @property
    def born_at_us(self) -> int:
        """The time at which the volume was created. With its name it tells it from all others."""
        return self.created_at_us if self.first_created_at_us is None else self.first_created_at_us

    @property
    def description_order(self) -> tuple[int, int]:
        """The key by which descriptions of one volume are ordered: the higher one is newer."""
        return self.epoch, self.described_position

    @property
    def generation_of_log(self) -> str:
        """The generation that the records and the head of the volume's log name."""
        return self.log_generation or self.generation

    @property
    def blocks(self) -> int:
        """The number of blocks. The last one may be partial."""
        return -(-self.size_bytes // self.block_size)

    @property
    def is_retired(self) -> bool:
        """Return whether the volume is retired: no host writes to it any more."""
        return self.state is VolumeState.RETIRED

    @property
    def is_authenticated(self) -> bool:
        """Return whether commands of the volume need the code of a host key from some position on.

        Who can't judge codes then believes only what the node recorded of it.
        """
        return self.authenticated_after is not None

    def is_authenticated_at(self, position: int) -> bool:
        """Return whether the command at `position` needs the code of a host key."""
        return self.authenticated_after is not None and position > self.authenticated_after

    def is_followed_by(self, site: str) -> bool:
        """Return whether the site brings its secondary up to date, if it has one."""
        return not self.is_retired and self.primary_site != site

    def is_expected_at(self, site: str) -> bool:
        """Return whether the description asks the site for a secondary: it names it, or no site."""
        return not self.secondaries or site in self.secondaries

    def promotion_ending(self, generation: str) -> Promotion | None:
        """Return the promotion that ended a generation; None if none is known."""
        ending = (
            promotion for promotion in self.promotions if promotion.former_generation == generation
        )
        return next(ending, None)

    def parted_after(self, generation: str) -> int | None:
        """Return the position behind which a copy of an ended generation parted from the volume.

        The log above it names every block in which the two may differ. None if nobody knows, or if
        no promotion ended the generation.
        """
        ending = self.promotion_ending(generation)
        if ending is None:
            return None
        since = self.promotions[self.promotions.index(ending) :]
        positions = [promotion.parted_position for promotion in since]
        known = [position for position in positions if position is not None]
        return min(known) if len(known) == len(positions) else None

    def size_at(self, position: int) -> int:
        """Return the size in bytes for commands at `position`, including a RESIZE at `position`."""
        sizes = (size.size_bytes for size in self.earlier_sizes if position < size.before_position)
        return next(sizes, self.size_bytes)

    def as_of(self, position: int) -> Volume:
        """Return the volume with the size that it had for commands at `position`.

        So a replay refuses again the extents that were out of range then, and a record stays a pure
        function of its commands.
        """
        if position >= self.described_position or not self.earlier_sizes:
            return self
        return replace(self, size_bytes=self.size_at(position))

    @property
    def description_bytes(self) -> int:
        """The size of the description in a message, without its numbers: at most 200 bytes more."""
        maps = [*self.secondaries, *self.secondaries.values(), *self.keep_s]
        ids = (self.log_generation, self.primary_site, self.primary_id, self.group)
        history = filter(None, (self.cluster, self.history_id, self.topic_id, *ids))
        texts = [self.volume, self.generation, self.primary, *maps, *history]
        for promotion in self.promotions:
            texts += filter(None, (promotion.site, promotion.former_primary, promotion.former_site))
        return (
            sum(len(text.encode()) for text in texts)
            + 10 * len(maps)
            + _EARLIER_SIZE_BYTES * len(self.earlier_sizes)
            + _PROMOTION_BYTES * len(self.promotions)
        )

    def byte_range(self, *, first: int, count: int) -> tuple[int, int]:
        """Return (offset, length) of `count` blocks from block `first`, up to the volume's end."""
        offset = first * self.block_size
        return offset, min(count * self.block_size, self.size_bytes - offset)

    def bytes_of(self, blocks: int) -> int:
        """Return the bytes of so many blocks, or more: the volume's last block may be short."""
        return min(blocks * self.block_size, self.size_bytes)


def in_history(volume: Volume, history: History) -> Volume:
    """Return the description of a volume with the history of its partition."""
    return replace(
        volume,
        cluster=history.cluster,
        history_id=history.id,
        epoch=history.epoch,
        topic_id=history.topic,
    )


def in_new_log(volume: Volume, *, generation: str, origin_position: int) -> Volume:
    """Return the description of a volume whose log begins anew, behind `origin_position`.

    An authenticated volume is so at each position then.
    """
    return replace(
        volume,
        generation=generation,
        origin_position=origin_position,
        described_position=origin_position,
        initially_zeroed=False,
        first_created_at_us=volume.born_at_us,
        recorded_since_us=None,
        log_generation=None,
        promotions=(),
        authenticated_after=BEFORE_FIRST if volume.is_authenticated else None,
    )


def check_volume_name(name: str) -> str:
    """Return `name`.

    Raise BadUse if it can't be part of topic keys, file names and labels of metrics.
    """
    return check_name(name, "a volume")


def check_group_name(name: str) -> str:
    """Return `name`. Raise BadUse if it can't name a consistency group."""
    return check_name(name, "a consistency group")


def check_name(name: str, what: str) -> str:
    """Return `name`. Raise BadUse if it can't name `what`, which is named as volumes are."""
    if not VOLUME_NAME.fullmatch(name):
        raise BadUse(
            f"'{name[:220]}' can't name {what}",
            next="Use letters, digits, '.', '_' and '-', at most 200, the first a letter or digit.",
        )
    return name


def members_of(group: str, volumes: Iterable[Volume]) -> list[Volume]:
    """Return the members of a group, sorted by name: its volumes that aren't retired."""
    members = (volume for volume in volumes if volume.group == group and not volume.is_retired)
    return sorted(members, key=lambda member: member.volume)


def check_geometry(*, size_bytes: int, block_size: int) -> None:
    """Raise BadUse unless the block size is a power of two in range and the size is possible.

    The size is possible if the volume has at most MAX_BLOCKS blocks.
    """
    if block_size & (block_size - 1) or not MIN_BLOCK_BYTES <= block_size <= MAX_BLOCK_BYTES:
        raise BadUse(
            f"{block_size} bytes can't be a block size",
            next=f"Use a power of two from {MIN_BLOCK_BYTES} B to {MAX_BLOCK_BYTES >> 20} MiB, "
            "for example 4KiB.",
        )
    if not 0 < size_bytes <= MAX_BYTE:
        raise BadUse(f"{size_bytes} bytes can't be a volume's size", next="Use 1 B to 8 EiB.")
    if size_bytes > MAX_BLOCKS * block_size:
        raise BadUse(
            f"{size_bytes} bytes are too many blocks of {block_size} bytes to be tracked: "
            f"{MAX_BLOCKS} are possible",
            next=f"Use blocks of {least_block_bytes(size_bytes)} bytes or more, or a smaller size.",
        )


def least_block_bytes(size_bytes: int) -> int:
    """Return the least block size in bytes with which a volume of that size can be tracked."""
    blocks = -(-size_bytes // MAX_BLOCKS)
    return max(MIN_BLOCK_BYTES, 1 << (blocks - 1).bit_length())
