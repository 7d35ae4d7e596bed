"""Applies the sealed journals of a site before anything else: it needs no Kafka and no primary.

A journal holds the description of its volume, so the secondary is found without the catalog. The
site that runs afterwards applies what couldn't be applied here, for example because an NBD server
was away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from mirrorlog.codec.events import decode
from mirrorlog.consumers.journal.group_commit import is_committed
from mirrorlog.consumers.journal.journal_format import read_journal
from mirrorlog.consumers.journal.journal_store import JournalStore
from mirrorlog.consumers.journal.redo import refuse_redo
from mirrorlog.consumers.resync.journaled_cycles import CycleJournals
from mirrorlog.consumers.resync.meeting import MeetingStep, meet
from mirrorlog.consumers.resync.meetings import SecondaryMeetings
from mirrorlog.consumers.resync.secondaries import Secondaries
from mirrorlog.consumers.resync.secondary import Secondary, save_states
from mirrorlog.consumers.resync.seeds import Seeds
from mirrorlog.consumers.state.secondary_state import SecondaryState, SecondaryStateStore
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError, StateDamaged
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.task_runner import TaskRunner

log = logging.getLogger("mirrorlog.site")

_SAME = (MeetingStep.SAME, MeetingStep.RESUME)


@dataclass(frozen=True, slots=True)
class RecoveryPorts:
    """What the recovery of a site's journals needs. The fields are those of SitePorts.

    is_left: returns whether the secondary of a volume is left as it is: an operator has paused it.
    may_write: returns whether this process may write to the secondary of a volume.
    """

    journals: JournalStore
    states: SecondaryStateStore
    secondaries: Secondaries
    is_left: Callable[[str], bool]
    clock: Clock
    task_runner: TaskRunner
    draw_id: Callable[[], str]
    may_write: Callable[[Volume], bool] = lambda _: True


def recover_journals(site: str, ports: RecoveryPorts) -> dict[str, int]:
    """Apply the sealed journals of a site; return the position of each secondary that has moved.

    The site doesn't run. What can't be applied is logged and stays as it is. Raise DeviceFailed if
    the states can't be saved, or the journals can't be listed.
    """

    def save(states: Sequence[tuple[Secondary, SecondaryState]]) -> None:
        save_states(ports.states, ports.clock.now_us(), states)

    meetings = SecondaryMeetings(site, ports.secondaries, save, ports.draw_id, Seeds())
    journals = CycleJournals(
        site,
        ports.journals,
        meetings,
        max_bytes=0,
        save=save,
        draw_id=ports.draw_id,
        tasks_for=lambda _: ports.task_runner,
        on_apply=lambda _: None,
    )
    moved = dict[str, int]()
    for name in ports.journals.volumes():
        if ports.is_left(name):
            continue
        try:
            secondary = _find(site, ports, name)
        except MirrorlogError as error:
            log.warning("%s at %s: the journal isn't applied yet: %s", name, site, error)
            continue
        if secondary is None:
            continue
        failed = meetings.meet_all([secondary])
        if not failed:
            # A fork waits for a report of the site, and nobody reports now.
            sealed, failed = journals.left.sealed([secondary], lambda _: False)
            failed += journals.apply(sealed)
        for _, failure in failed:
            log.warning("%s at %s: the journal isn't applied yet: %s", name, site, failure)
        saved = secondary.saved
        if not failed and saved is not None and saved.consistent_position is not None:
            moved[name] = saved.consistent_position
    return moved


def _find(site: str, ports: RecoveryPorts, name: str) -> Secondary | None:
    """Return the secondary of which there is a sealed journal, if it is surely the right one.

    Everything else is left to the site, which knows the newest description. Raise MirrorlogError.
    """
    file = ports.journals.open(name)
    if file is None:
        return None
    try:
        journal = read_journal(file.pread)
    finally:
        file.close()
    if journal is None or journal.header.site != site or not is_committed(journal, ports.journals):
        return None
    secondary = Secondary(decode(journal.header.description, Volume))
    if not ports.may_write(secondary.volume):
        return None
    with suppress(StateDamaged):
        secondary.note_saved(ports.states.load(name))
    if refuse_redo(journal, secondary.saved) is not None:
        return None
    mark = SecondaryMark(secondary_id=str(UUID(int=0)), site=site, volume=name, epoch=0)
    present = ports.secondaries.find(secondary.volume)
    meeting = meet(
        mark, secondary.volume, secondary.saved, present, primary=None, is_state_damaged=False
    )
    return secondary if meeting.step in _SAME else None
