"""What `log show` and `log rebuild --check` take from a changelog of several histories."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from notation import GENERATION, record

from mirrorlog.cli.commands import log as commands
from mirrorlog.cli.support import changelog as module
from mirrorlog.codec.events import encode
from mirrorlog.domain.histories import History
from mirrorlog.ports.streams import Message
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import record_key, watermark_key


def row(text: str) -> tuple[bytes, bytes]:
    """Return a row in notation: `w2:9` is a watermark of epoch 2 through 9, `r3..5` a record."""
    if text[0] == "r":
        written = record(text[1:], "1")
        return record_key(written), encode(written)
    epoch, through = text[1:].split(":")
    history = History(cluster=None, topic=None, epoch=int(epoch), id=GENERATION)
    watermark = Watermark(partition=0, through=int(through), at_us=1, history=history)
    return watermark_key(0), encode(watermark)


CASES = """
r-1..4 w1:4 r4..9 w1:9             | 9 | -1..4 4..9
r-1..4 w1:4 w2:-1 r-1..2 w2:2      | 2 | -1..2
r-1..4 w1:4 w2:-1                  | -1 |
r-1..4 w1:9 w2:-1 r-1..2 w2:2 w1:9 | 2 | -1..2
w1:9 w1:4 r-1..3                   | 9 | -1..3
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_only_the_newest_history_counts(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, through, records = (part.split() for part in case.split("|"))

    def messages(_: Settings, partition: int) -> Iterator[Message]:
        for position, text in enumerate(rows):
            yield Message("t", partition, position, *row(text))

    monkeypatch.setattr(module, "changelog_messages", messages)
    monkeypatch.setattr(commands, "changelog_messages", messages)
    read, watermark = module.read_changelog(Settings(), 0)
    assert [f"{entry.after}..{entry.through}" for entry in read] == records
    assert watermark == int(through[0])
    digests, newest = commands._changelog_digests(Settings(), 0, ["v"])
    spans = [digest.span for digest in digests.by_log(int(through[0]))["v"]] if records else []
    assert sorted(f"{span.after}..{span.through}" for span in spans) == sorted(records)
    assert newest.through == int(through[0])
