"""Every error that mirrorlog raises on purpose, and the one place that decides exit codes.

    MirrorlogError           what was being done, where, and what to do next
    ├── BadUse               a wrong option, an unknown name, contradicting options     exit 2
    │   ├── BadInput         a file, event or message that isn't what it claims to be   exit 2
    │   ├── UnknownVolume    there is no volume of that name                            exit 2
    │   ├── WrongCluster     the positions are those of another Kafka cluster           exit 2
    │   └── NotAllowed       the request carries no token or certificate that's needed  exit 2
    ├── OutOfRetention       the log doesn't reach that far: a hole, a trim, another    exit 3
    │                        generation
    ├── DifferenceFound      a check ran to its end, and the two sides differ           exit 4
    ├── StateDamaged         mirrorlog's durable state fails its checksum or version    exit 1
    ├── DeviceFailed         a volume, or its file, can't be read or written            exit 1
    ├── ArchiveFailed        the store of an archive refused, or didn't answer          exit 1
    ├── RepositoryFailed         the store of backups refused, or didn't answer             exit 1
    ├── NodeUnavailable      the node can't answer now: load, a rebalance, an outage    exit 1
    ├── KafkaFailed          the broker refused, or didn't answer by the deadline       exit 1
    │   └── ChangelogRefused a log record wasn't acknowledged, and the node stops       exit 1
    └── PartFailed           a process of a run (broker, node, host, site) ended        exit 1

The exit code of an interrupt (Ctrl-C, SIGTERM) is 130. Any other exception is a defect of
mirrorlog: exit code 1, with a traceback under -v.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import ClassVar, Final

_CLASS_NAME: Final = re.compile(
    r"^(?:\[Error \d+\] )?"
    r"(?:[A-Za-z_.]*(?:Error|Exception|Timeout|Unavailable)(?::\s+|\s+(?=[A-Z])|$))+"
)
"""What Kafka's clients put before the text of an error: `[Error 7] RequestTimedOutError: …`."""
_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class ExitCode(IntEnum):
    """The exit codes of all commands."""

    OK = 0
    FAILED = 1
    BAD_USE = 2
    OUT_OF_RETENTION = 3
    DIFFERENCE_FOUND = 4
    INTERRUPTED = 130


class MirrorlogError(Exception):
    """The root of the tree.

    what: what was being done and what went wrong, in one sentence without a full stop.
    where: the volume, position, offset, file or address; empty if there is none.
    next: what the reader can do about it; empty only if nothing can be done.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, what: str, *, where: str = "", next: str = "") -> None:
        super().__init__(what, where, next)
        self.what = what
        self.where = where
        self.next = next

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        advice = f" {self.next}" if self.next else ""
        return f"{self.what}{place}.{advice}"

    def as_message(self) -> dict[str, object]:
        """Return the last JSON object that a command prints under --json."""
        return {
            "message_type": "error",
            "code": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "next": self.next,
        }


def error_kind(code: str) -> type[MirrorlogError] | None:
    """Return the class of the errors with a code, as as_message() has it; None if there is none."""
    kind = globals().get(code)
    return kind if isinstance(kind, type) and issubclass(kind, MirrorlogError) else None


class BadUse(MirrorlogError):
    """A wrong option, an unknown name, or a contradiction in the request."""

    exit_code = ExitCode.BAD_USE


class BadInput(BadUse):
    """A file, an event or a message isn't what it claims to be."""


class UnknownVolume(BadUse):
    """No volume has that name."""


class WrongCluster(BadUse):
    """The topics are a mirror or a copy: their positions are those of another Kafka cluster."""


class NotAllowed(BadUse):
    """The request doesn't carry the node's token, or a certificate that it accepts."""


class OutOfRetention(MirrorlogError):
    """The log doesn't reach that far: a hole, a trim, or another generation."""

    exit_code = ExitCode.OUT_OF_RETENTION


class DifferenceFound(MirrorlogError):
    """A check ran to its end, and the two sides differ."""

    exit_code = ExitCode.DIFFERENCE_FOUND


class StateDamaged(MirrorlogError):
    """mirrorlog's own durable state fails its checksum or names an unknown version."""


class DeviceFailed(MirrorlogError):
    """A volume, or a file that stands for one, can't be read or written."""


class CopyDiverged(DeviceFailed):
    """A copy was the primary before a promotion, and hasn't rejoined."""


class ArchiveFailed(MirrorlogError):
    """The store of an archive can't be read or written."""


class RepositoryFailed(MirrorlogError):
    """The store of a backup repository can't be read or written."""


class NodeUnavailable(MirrorlogError):
    """The node can't answer now: too many requests, a rebalance, or a worker that is away."""


class KafkaFailed(MirrorlogError):
    """The broker refused, or didn't answer before the deadline."""


class ChangelogRefused(KafkaFailed):
    """A log record wasn't acknowledged. The node stops with nothing committed (invariant 2)."""


class PartFailed(MirrorlogError):
    """A process of a run (broker, node, host, site) ended by itself."""


def in_words(error: BaseException) -> str:
    """Return what an exception says, for people: without the names of classes.

    Kafka's clients and Python's own libraries put the name of a class before the text, or have no
    text at all: the name is then split into words.
    """
    if isinstance(error, MirrorlogError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]}" if error.args else "something is missing"
    text, had_name = _CLASS_NAME.subn("", str(error))
    text, name = text.strip(), name_in_words(type(error))
    if had_name and len(text.split()) == 1:  # a topic, for example: the name alone says what failed
        return f"{name}: {text}"
    return text or name


def name_in_words(kind: type) -> str:
    """Return the name of a class as words in lower case: `tracking command`."""
    return _WORD.sub(" ", kind.__name__.lstrip("_")).lower()


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code for `error`."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return error.exit_code if isinstance(error, MirrorlogError) else ExitCode.FAILED
