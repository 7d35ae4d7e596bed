"""The name of a log: its origin, which says of which commands its tree is made. Pure.

A log is a pure function of its name: it has the commands of one partition from `first` on, in one
history of the partition (domain/histories.py), in which a position means the same command for ever.
So two trees of one name never differ at one size. If a history ends, or if retention takes commands
before they are in the tree, another log begins, under another name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote, unquote

from mirrorlog.errors import BadInput
from mirrorlog.transparency.notes import decode_number, is_key_name

_PREFIX: Final = "mirrorlog"
_UNKNOWN: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogName:
    """The name of a log. cluster, topic: Kafka's ids, None if they aren't known.

    Ids may hold '/' and '+' (base64), which the name of a key may not: they are quoted as in a URL.

    history: the id of the partition's history. first: the lowest position that a leaf may have.
    """

    cluster: str | None
    topic: str | None
    partition: int
    history: str
    first: int

    @property
    def origin(self) -> str:
        """The first line of the log's checkpoints, and the name of the key that signs them."""
        return "/".join(
            (
                _PREFIX,
                _quoted(self.cluster),
                _quoted(self.topic),
                str(self.partition),
                _quoted(self.history),
                str(self.first),
            )
        )

    @property
    def folder(self) -> str:
        """The path of the log's folder, in the folder of all logs."""
        return f"partition-{self.partition}/{_quoted(self.history)}-{self.first}"

    @classmethod
    def parse(cls, origin: str, *, where: str) -> Self:
        """Return the name that an origin says. Raise BadInput if it is of no log of mirrorlog's."""
        parts = origin.split("/")
        if (
            len(parts) == 6
            and parts[0] == _PREFIX
            and all(parts)
            and is_key_name(origin)
            and all(decode_number(parts[place]) is not None for place in (3, 5))
        ):
            _, cluster, topic, partition, history, first = parts
            return cls(
                cluster=None if cluster == _UNKNOWN else unquote(cluster),
                topic=None if topic == _UNKNOWN else unquote(topic),
                partition=int(partition),
                history=unquote(history),
                first=int(first),
            )
        raise BadInput(
            f"'{origin[:120]}' is no log of commands",
            where=where,
            next="Name a checkpoint or proof that `mirrorlog audit` made.",
        )


def _quoted(text: str | None) -> str:
    return _UNKNOWN if text is None else quote(text, safe="")
