"""What `mirrorlog audit` says about an answer, beside its rows."""

from __future__ import annotations

from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.asked_points import AskedPoints
from mirrorlog.cli.support.output import Output
from mirrorlog.consumers.audit.ask import AuditAnswer
from mirrorlog.consumers.audit.tally import AuditTally
from mirrorlog.consumers.audit.writes_not_kept import WritesNotKept
from mirrorlog.history.source import CoveredRange
from mirrorlog.units import format_size


def print_answer_notes(output: Output, points: AskedPoints, answer: AuditAnswer) -> None:
    """Say on stderr which times were understood, and where the answer begins if that is later."""
    if points.times:
        clock = "the writes' own times" if answer.span.has_own_times else "the broker's clock"
        output.print_note(f"asked for {points.times_in_words}, by {clock}")
    if answer.span.volume_began_us is not None:
        output.print_note(
            f"the history of volume {answer.volume.volume} begins at "
            f"{format_time(answer.span.volume_began_us)}, after the time that was asked for: the "
            "answer begins there"
        )


def print_tally(
    output: Output,
    points: AskedPoints,
    answer: AuditAnswer,
    tally: AuditTally,
    *,
    with_status: bool = True,
) -> None:
    """Say at the end what the rows amount to, and what retention took.

    with_status: statuses were read.
    """
    span = answer.span
    began_us = span.volume_began_us
    lost = answer.writes_not_kept()
    first_us, last_us = tally.first_appended_us, tally.last_appended_us
    fields = {
        "schema_version": 1,
        "volume": answer.volume.volume,
        **points.as_fields(after=span.after, through=span.through),
        "volume_began_at": None if began_us is None else format_time(began_us),
        "rows": tally.rows,
        "changes": tally.changes,
        "change_bytes": tally.change_bytes,
        "first_appended_at": None if first_us is None else format_time(first_us),
        "last_appended_at": None if last_us is None else format_time(last_us),
        "rows_without_status": tally.without_status if with_status else None,
        "missing": [
            {
                "after": gap.after,
                "through": gap.through,
                "appended_until": _appended_until(gap, tally),
            }
            for gap in span.missing
        ],
        "missing_positions": span.missing_positions,
        "missing_writes_at_least": None if lost is None else lost.at_least,
        "missing_writes_at_most": None if lost is None else lost.at_most,
    }
    output.print_message("summary", fields)
    if output.json:
        return
    output.print_note(_sentence(answer, tally, with_status=with_status))
    for gap in span.missing:
        until = _appended_until(gap, tally)
        appended = "" if until is None else f", appended until {until} at the latest"
        output.print_note(
            f"retention took positions {gap.after + 1} to {gap.through} of partition "
            f"{answer.volume.partition}{appended}: what the volume had there isn't in the answer"
        )
    if span.missing:
        output.print_note(f"of volume {answer.volume.volume}, {_lost_sentence(lost)}")


def _sentence(answer: AuditAnswer, tally: AuditTally, *, with_status: bool) -> str:
    span = answer.span
    where = f"positions {span.after + 1} to {span.through}"
    if not tally.rows:
        return f"no rows at {where}"
    appended = ""
    if tally.first_appended_us is not None and tally.last_appended_us is not None:
        times = (format_time(tally.first_appended_us), format_time(tally.last_appended_us))
        appended = f", appended from {times[0]} to {times[1]}"
    unknown = ""
    if with_status and tally.without_status:
        unknown = f"; {tally.without_status:,} without a status that is kept"
    return (
        f"{tally.rows:,} rows at {where}{appended}: {tally.changes:,} changes of "
        f"{format_size(tally.change_bytes)}{unknown}"
    )


def _appended_until(gap: CoveredRange, tally: AuditTally) -> str | None:
    """Return a time at or before which the missing commands were appended: that of a row behind."""
    if tally.first_position is None or tally.first_appended_us is None:
        return None
    return format_time(tally.first_appended_us) if gap.through < tally.first_position else None


def _lost_sentence(lost: WritesNotKept | None) -> str:
    if lost is None:
        return "the log doesn't say how many writes these were"
    if lost.at_least == lost.at_most:
        return f"these were {lost.at_most:,} writes, by the log"
    return f"these were {lost.at_least:,} to {lost.at_most:,} writes, by the log"
