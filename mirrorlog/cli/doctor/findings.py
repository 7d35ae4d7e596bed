"""What a check of `mirrorlog doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mirrorlog.cli.doctor.snapshot import NotAsked


class Result(StrEnum):
    """The result of a check. NOT_ASKED: nobody knows, and nothing is claimed."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found. what: without a full stop. next: None if nothing is to do."""

    result: Result
    what: str
    where: str | None = None
    next: str | None = None

    def line(self, name: str) -> str:
        """Return the finding of the check `name` as a line for people."""
        place = f" ({self.where})" if self.where else ""
        advice = f" {self.next}" if self.next else ""
        return f"{self.result}: {name}: {self.what}{place}.{advice}"

    def fields(self, name: str) -> dict[str, str | None]:
        """Return the finding of the check `name` as --json prints it."""
        return {
            "name": name,
            "result": self.result.name.lower(),
            "what": self.what,
            "where": self.where or None,
            "next": self.next or None,
        }


def ok(what: str, where: str | None = None) -> Finding:
    """Return that all is well."""
    return Finding(Result.OK, what, where)


def warning(what: str, where: str | None = None, next: str | None = None) -> Finding:
    """Return what works, and may not for long."""
    return Finding(Result.WARNING, what, where, next)


def failed(what: str, where: str | None = None, next: str | None = None) -> Finding:
    """Return what breaks mirrorlog."""
    return Finding(Result.FAILED, what, where, next)


def not_asked(unknown: NotAsked, next: str | None = None) -> Finding:
    """Return that nobody knows."""
    return Finding(Result.NOT_ASKED, unknown.why, next=next)
