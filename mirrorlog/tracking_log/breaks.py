"""What shows that a position of a watermark means another command now than it did. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mirrorlog.tracking_log.heads import Watermark


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandsNow:
    """One partition of the commands topic, as it was asked about after a watermark was read.

    topic: Kafka's id of the topic; None if it isn't known.
    first_kept, end: the oldest position that is kept, and that of the next command.
    anchor: the digest of the command at the watermark's position; None if none is kept there.
    """

    topic: str | None
    first_kept: int
    end: int
    anchor: bytes | None


def break_reason(watermark: Watermark, now: CommandsNow) -> str | None:
    """Return what shows that the commands topic isn't the one that the log recorded.

    Return None if nothing does: then every position up to the watermark means what it meant. The
    first case that applies is named:

    1. The topic has another id: it was deleted and created again.
    2. It ends at or below the watermark, which is impossible within one history: the watermark was
       published after the command that it names.
    3. The command at the watermark is another one: the position was used again. As a topic is only
       ever appended to, one command stands for all before it.
    """
    known = watermark.history.topic if watermark.history else None
    if None not in (known, now.topic) and known != now.topic:
        return f"the commands topic was created again: its id is {now.topic}, and was {known}"
    if now.end <= watermark.through:
        return (
            f"the commands topic ends at position {now.end}, and the log was complete through "
            f"position {watermark.through}: the topic went back in time, or was created again"
        )
    if watermark.anchor is not None and now.anchor not in (None, watermark.anchor):
        return (
            f"position {watermark.through} holds another command than the one that was recorded: "
            "the commands topic went back in time, and its positions were used again"
        )
    return None
