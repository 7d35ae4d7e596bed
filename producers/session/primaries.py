"""Each volume is opened on its own primary, and on the one of yesterday.

A mark beside the primary says which volume's it is (mirrorlog/domain/primary_marks.py). Locks keep
two hosts off one primary at the same time; the mark keeps two volumes off it at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from mirrorlog.domain.primary_marks import PrimaryMark, foreign_error, new_mark, swap_reason
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.primary_marks import PrimaryMarks
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp, VolumeActivity
from mirrorlog.producers.session.fence import former_primary_error
from mirrorlog.producers.session.unvouched import Unvouched

if TYPE_CHECKING:
    from mirrorlog.producers.session.opening import OpenRequest

_NOBODY: Final = VolumeActivity()


@dataclass(slots=True)
class CheckedPrimaries:
    """The primaries of some volumes, by volume.

    ids: of the marks that are right. doubts: what can't be vouched for, because a primary may not
    be the one that the host wrote to.
    """

    ids: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, Unvouched] = field(default_factory=dict)

    def write_missing(self, marks: PrimaryMarks, requests: Mapping[str, OpenRequest]) -> None:
        """Give each primary a new mark that has none, or a doubtful one.

        Call it when the volumes with a doubt are published as dirty: a crash before that leaves the
        doubt.
        """
        missing: list[tuple[BlockDevice, PrimaryMark]] = []
        for name, request in requests.items():
            if name not in self.ids:
                mark = new_mark(request.volume, request.device.identity.lasting, str(uuid4()))
                missing.append((request.device, mark))
                self.ids[name] = mark.primary_id
        if missing:
            marks.write(missing)

    def entries(self) -> Iterator[ActivityEntry]:
        """Yield the entries that say on which primaries the volumes are open."""
        for name, primary_id in self.ids.items():
            yield ActivityEntry(ActivityOp.PRIMARY, name, primary_id=primary_id)


def check_primaries(
    marks: PrimaryMarks | None,
    requests: Mapping[str, OpenRequest],
    activities: Mapping[str, VolumeActivity],
) -> CheckedPrimaries:
    """Hold each primary against its mark, and against the id that the state folder keeps.

    marks: None: nothing is checked. activities: by volume, what the activity log says.
    Raise BadUse if a primary is that of another volume, or if it isn't the one that was promoted.
    """
    checked = CheckedPrimaries()
    if marks is None:
        return checked
    for name, request in requests.items():
        mark = marks.read(request.device)
        if mark is not None and not mark.is_of(request.volume):
            raise foreign_error(mark, request.volume)
        right_id = request.volume.primary_id
        if right_id is not None and (mark is None or mark.primary_id != right_id):
            raise former_primary_error(request.volume)
        known_id = "" if request.is_promoted else activities.get(name, _NOBODY).primary_id
        reason = swap_reason(mark, lasting=request.device.identity.lasting, known_id=known_id)
        if reason is not None:
            checked.doubts[name] = Unvouched(None, reason)
        elif mark is not None:
            checked.ids[name] = mark.primary_id
    return checked
