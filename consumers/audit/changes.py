"""The rows of a batch whose extents changed, as an audit counts them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.history.batches import HistoryBatch
from mirrorlog.history.definition import CHANGES, RowClock


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """n changes, each of at least one byte.

    offsets, lengths: u64, bytes, inside the volume. at_us: i64, when each was made: by its own time
    if it is of a recording, otherwise when the broker took it. hosts: i32, indexes into
    `host_names`; -1 is unknown.
    """

    offsets: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint64]
    at_us: npt.NDArray[np.int64]
    hosts: npt.NDArray[np.int32]
    host_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def extents(self) -> ExtentColumns:
        """The extents, as if all were writes."""
        return ExtentColumns(self.offsets, self.lengths)

    def take(self, rows: npt.NDArray[np.bool_]) -> Changes:
        """Return those changes for which the mask is True."""
        return Changes(
            self.offsets[rows],
            self.lengths[rows],
            self.at_us[rows],
            self.hosts[rows],
            self.host_names,
        )


def changes_of(batch: HistoryBatch) -> Changes:
    """Return the changes among the rows of a batch, in order."""
    hosts, lengths = batch.texts("host"), batch.numbers("length").values
    chosen = batch.texts("kind").where(CHANGES.__contains__) & (lengths > 0)
    changes = Changes(
        batch.numbers("offset").values,
        lengths,
        _times_us(batch),
        hosts.codes,
        hosts.dictionary,
    )
    return changes if chosen.all() else changes.take(chosen)


def _times_us(batch: HistoryBatch) -> npt.NDArray[np.int64]:
    """Return when the rows were made. Where the broker's time is unknown, the host's counts."""
    appended, last = batch.numbers("appended_at_us"), batch.numbers("last_at_us").values
    is_by_host = batch.texts("clock").where(lambda clock: clock == RowClock.RECORDING)
    if appended.known is not None:
        is_by_host = is_by_host | ~appended.known
    return np.where(is_by_host, last, appended.values)
