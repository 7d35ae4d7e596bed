"""How a verification is printed: progress, and the report at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.output import Output
from mirrorlog.consumers.verify.verifier import VerificationAborted
from mirrorlog.domain.verifications import ByteRange, VerificationReport, VerificationState
from mirrorlog.errors import DifferenceFound, MirrorlogError
from mirrorlog.units import format_size

_PROGRESS_S: Final = 10.0
_NAMED: Final = 5


class VerifyLines:
    """Prints how far a verification came, every 10 s. monotonic_s: a monotonic clock."""

    def __init__(self, output: Output, monotonic_s: Callable[[], float]) -> None:
        self._output, self._now_s = output, monotonic_s
        self._told_at_s = monotonic_s()

    def tick(self, report: Callable[[], VerificationReport]) -> None:
        """Print progress if that is due. report: returns the report as of now."""
        if self._now_s() - self._told_at_s < _PROGRESS_S:
            return
        self._told_at_s = self._now_s()
        now = report()
        self._output.print_message("progress", report_fields(now))
        share = now.confirmed_bytes / now.size_bytes if now.size_bytes else 1.0
        self._output.print_text(
            f"{share:.1%} confirmed, {now.different_blocks} blocks differ, "
            f"{now.hashed_again} times hashed again"
        )


def report_fields(report: VerificationReport) -> dict[str, Any]:
    """Return a report in values that JSON can hold. docs/status.md has the keys."""
    return {
        "verification": report.verification,
        "volume": report.volume,
        "site": report.site,
        "generation": report.generation,
        "state": str(report.state),
        "result": report.result,
        "is_equal": report.is_equal,
        "algorithm": report.algorithm,
        "primary_reader": report.primary_reader,
        "size_bytes": report.size_bytes,
        "range_bytes": report.range_bytes,
        "started_at": format_time(report.started_at_us),
        "at": format_time(report.at_us),
        "runs": report.runs,
        "reached_bytes": report.reached_bytes,
        "confirmed_bytes": report.confirmed_bytes,
        "hashed_again": report.hashed_again,
        "different_blocks": report.different_blocks,
        "different": _range_fields(report.different),
        "skipped_bytes": report.skipped_bytes,
        "skipped": _range_fields(report.skipped),
        "pending": _range_fields(report.pending),
        "repaired_blocks": report.repaired_blocks,
        "reason": report.reason,
    }


def print_report(output: Output, report: VerificationReport) -> None:
    """Print the report at the end of a run."""
    output.print_message("result", report_fields(report))
    output.print_text(
        f"{report.volume} at {report.site}: {report.state}: {report.result}; "
        f"{format_size(report.confirmed_bytes)} of {format_size(report.size_bytes)} confirmed, "
        f"{report.hashed_again} times hashed again because the log named a change"
    )
    for name, ranges in (("different", report.different), ("skipped", report.skipped)):
        if ranges:
            output.print_text(f"{name}: {_text(ranges)}")
    if report.reason is not None:
        output.print_text(f"reason: {report.reason}")


def failure_of(report: VerificationReport) -> MirrorlogError | None:
    """Return the error that a finished run amounts to; None if every byte was confirmed."""
    where = f"volume {report.volume} at {report.site}"
    if report.different_blocks:
        what = f"{report.result}; the log names no change of that"
        is_repaired = report.repaired_blocks == report.different_blocks
        return DifferenceFound(
            what,
            where=where,
            next="Find out why they differed, and verify again."
            if is_repaired
            else "`mirrorlog verify --repair` lets the site copy them again.",
        )
    if report.is_equal:
        return None
    assert report.state is VerificationState.FINISHED
    return VerificationAborted(
        f"{report.skipped_bytes} bytes could not be judged: {report.reason}",
        where=where,
        next="Verify with --continue, when fewer writes go there or with a larger --patience.",
    )


def _range_fields(ranges: tuple[ByteRange, ...]) -> list[dict[str, int]]:
    return [{"offset": extent.offset, "length": extent.length} for extent in ranges]


def _text(ranges: tuple[ByteRange, ...]) -> str:
    named = ", ".join(f"{extent.offset}+{extent.length}" for extent in ranges[:_NAMED])
    more = len(ranges) - _NAMED
    return f"{named} and {more} more ranges" if more > 0 else named
