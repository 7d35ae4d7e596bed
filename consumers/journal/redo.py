"""Whether a sealed journal is of the secondary that a saved state is about.

Names aren't identities (invariant 14): the journal and the state must name the same history, the
same secondary by its mark, and the same position to begin at. The meeting (resync/meeting.py) has
shown before that the secondary that is there is the one of the state.

The states that a crash can leave beside a journal over (after, through]:

- idle, applied at `after`: nothing of the journal was written yet.
- a cycle over (after, through] runs: some of it may be written.
- a cycle from `after` runs through `after`: the mark counts a cycle that the state doesn't know
  (MeetingStep.RESUME), of which nothing was written.
- applied at `through`: all of it is written, and the journal wasn't emptied yet.

Any other state is about other writes, and the journal isn't applied. A cycle in place names blocks
that aren't proved (suspect_after) from its beginning on, so it is never taken for one of these.
"""

from __future__ import annotations

from mirrorlog.consumers.journal.journal_format import SealedJournal
from mirrorlog.consumers.state.secondary_state import SecondaryState


def refuse_redo(journal: SealedJournal, saved: SecondaryState | None) -> str | None:
    """Return why a journal isn't applied to the secondary of a saved state; None if it is."""
    header = journal.header
    if saved is None or saved.identity is None:
        return "nothing is known of the secondary"
    if saved.volume != header.volume:
        return f"it is of the volume {header.volume}"
    if saved.identity.secondary_id != header.secondary_id:
        return f"it is of the secondary {header.secondary_id}"
    if (saved.generation, saved.history_id) != (header.generation, header.history_id):
        return f"it is of the generation {header.generation} and the history {header.history_id}"
    if saved.applied_position != header.after or saved.identity.epoch < header.epoch:
        return f"it begins at position {header.after}, and the secondary is elsewhere"
    if saved.suspect_after is not None:
        return "the secondary has blocks that aren't proved"
    if saved.cycle_through in (journal.through, header.after):
        return None
    if saved.cycle_through is None and saved.consistent_position == header.after:
        return None
    return f"the secondary was in another cycle, through position {saved.cycle_through}"
