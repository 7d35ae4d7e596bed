"""What an export says of itself: read as it was written, and nothing else is believed."""

from __future__ import annotations

import pytest

from mirrorlog.domain.snapshots import (
    ExportDescription,
    HoldExport,
    LiveExport,
    SnapshotExport,
    describe,
    parse_description,
)

GENERATION = "01234567-89ab-cdef-0123-456789abcdef"
LIVE = LiveExport(volume="v-1", session="s1")
HOLD = HoldExport(volume="v-1", session="s1")
SNAPSHOT = SnapshotExport(
    volume="v-1", session="s1", generation=GENERATION, history_id=GENERATION, position=7, number=3
)
UNKNOWN_HISTORY = SnapshotExport(
    volume="v-1", session="s1", generation=GENERATION, history_id=None, position=0, number=0
)


@pytest.mark.parametrize("export", [LIVE, HOLD, SNAPSHOT, UNKNOWN_HISTORY])
def test_a_description_is_read_as_it_was_written(export: ExportDescription) -> None:
    assert parse_description(describe(export)) == export
    assert parse_description(describe(export) + " later=1") == export


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "a disk",
        "mirrorlog-volume volume=v-1",
        "mirrorlog-volume volume=.. session=s1",
        "mirrorlog-volume volume=v session=",
        describe(SNAPSHOT).replace("position=7", "position=-1"),
        describe(SNAPSHOT).replace("position=7", "position="),
        describe(SNAPSHOT).replace("number=3", ""),
        describe(SNAPSHOT).replace(GENERATION, "g"),
    ],
)
def test_nothing_else_is_believed(text: str | None) -> None:
    assert parse_description(text) is None
