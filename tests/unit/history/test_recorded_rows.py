"""The rows of recorded writes: each has the time of its own write."""

from __future__ import annotations

from dataclasses import replace

from notation import command, message, recorded, volume

from mirrorlog.domain.commands import CommandKind
from mirrorlog.history.command_rows import command_rows


def test_each_recorded_write_has_its_own_time_and_other_commands_keep_theirs() -> None:
    events = [
        command("0+4096 4096+1", first_at_us=100, last_at_us=200),
        recorded("7@0+4096 5@z8192+512 9@4096+1"),
        b"junk",
        command("0+1", kind=CommandKind.MARK_DIRTY, first_at_us=3, last_at_us=4),
    ]
    messages = [replace(message(n, event), at_us=50 + n) for n, event in enumerate(events)]
    rows = command_rows(messages, volume(), through=3)
    times = [rows.numbers(name).to_list() for name in ("position", "first_at_us", "last_at_us")]
    assert list(zip(*times, strict=True)) == [
        *((0, 100, 200), (0, 100, 200)),
        *((1, 7, 7), (1, 5, 5), (1, 9, 9)),
        (2, None, None),
        (3, 3, 4),
    ]
