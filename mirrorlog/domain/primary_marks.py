"""The mark of a primary: which volume's it is. Pure.

A path is a name. What lies there may be another volume's primary, or another file than yesterday.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from mirrorlog.domain.volumes import Volume, check_volume_name
from mirrorlog.errors import BadUse


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryMark:
    """What is kept beside a primary.

    primary_id: a random UUID in canonical form. A new one is drawn whenever it isn't known what the
        primary holds. Hosts keep it in their state folders.
    volume, created_at_us: whose primary it is (Volume.born_at_us). A volume that is created again
        under an old name has another time; one whose generation was renewed has the same.
    lasting: the identity of the storage (DeviceIdentity.lasting); None if it has none.

    Raise BadUse for a volume name that is none, ValueError for other values that no mark has.
    """

    primary_id: str
    volume: str
    created_at_us: int
    lasting: str | None

    def __post_init__(self) -> None:
        check_volume_name(self.volume)
        if str(UUID(self.primary_id)) != self.primary_id:
            raise ValueError(f"'{self.primary_id}' isn't a UUID in canonical form")
        if type(self.created_at_us) is not int:
            raise ValueError(f"created_at_us can't be '{self.created_at_us}'")
        if self.lasting is not None and type(self.lasting) is not str:
            raise ValueError(f"lasting can't be '{self.lasting}'")

    def is_of(self, volume: Volume) -> bool:
        """Return whether it is the mark of this volume, and not of an earlier one of its name."""
        return (self.volume, self.created_at_us) == (volume.volume, volume.born_at_us)


def swap_reason(mark: PrimaryMark | None, *, lasting: str | None, known_id: str) -> str | None:
    """Return why a primary may not be the one that a host last wrote to; None if it is.

    mark: that beside the primary; of the host's volume. lasting: the identity of the storage that
    was opened. known_id: the id that the host's state folder keeps; empty if it keeps none.
    """
    if mark is None:
        return "the primary lost its mark, or was swapped for another one" if known_id else None
    if mark.lasting is not None and lasting is not None and mark.lasting != lasting:
        return f"the primary was swapped: it is {lasting}, and its mark was made for {mark.lasting}"
    if known_id and known_id != mark.primary_id:
        return "the primary isn't the one that the host's state folder knows"
    return None


def new_mark(volume: Volume, lasting: str | None, primary_id: str) -> PrimaryMark:
    """Return the mark with which a primary becomes that of the volume.

    lasting: the identity of its storage. primary_id: a new random UUID.
    """
    return PrimaryMark(
        primary_id=primary_id,
        volume=volume.volume,
        created_at_us=volume.born_at_us,
        lasting=lasting,
    )


def foreign_error(mark: PrimaryMark, volume: Volume) -> BadUse:
    """Return the error for a primary whose mark is another volume's."""
    which = f"volume '{mark.volume}'"
    if mark.volume == volume.volume:
        which = f"an earlier volume '{mark.volume}'"
    return BadUse(
        f"the primary is that of {which}: its mark says so",
        where=f"volume {volume.volume}",
        next="Two volumes on one primary would each miss what is written through the other. Name "
        "the right primary. If the other volume is gone for good: `mirrorlog volume move "
        f"{volume.volume} --reuse-primary`.",
    )
