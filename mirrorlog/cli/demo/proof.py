"""The proof of a run: the tracking log, the sites' reports, and the files themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.codec.events import decode
from mirrorlog.consumers.verify.compare import compare_files
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import KafkaFailed, OutOfRetention
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings

_POLLED_REPORTS: Final = 20_000


def dirty_blocks_of_log(
    settings: Settings,
    volumes: Mapping[str, Volume],
    last_positions: Mapping[str, int],
    deadline_s: float,
) -> dict[str, int]:
    """Return how many blocks the tracking log names, by volume.

    It waits until the log is complete through the last position of each volume (by name; a
    volume that `last_positions` doesn't name only needs a watermark).
    Errors: KafkaFailed if the log isn't complete within `deadline_s`; OutOfRetention if it has a
    hole (invariant 5).
    """
    reader, admin = KafkaReader(settings.kafka_client()), KafkaAdmin(settings.kafka_client())
    log = LogReader(reader, admin, settings.topics.changelog)
    until = time.monotonic() + deadline_s

    def is_complete(volume: Volume) -> bool:
        watermark = log.watermarks.get(volume.partition)
        return watermark is not None and watermark.through >= last_positions.get(volume.volume, -1)

    try:
        while not all(is_complete(volume) for volume in volumes.values()):
            if time.monotonic() > until:
                raise KafkaFailed(
                    "the log isn't complete", next="Is the node running? See node.log."
                )
            log.poll(0.2)
        return {name: _dirty_blocks(volume, log) for name, volume in volumes.items()}
    finally:
        reader.close()
        admin.close()


def _dirty_blocks(volume: Volume, log: LogReader) -> int:
    through = log.watermarks[volume.partition].through
    if hole := log.logs[volume.volume].hole(after=volume.origin_position, through=through):
        raise OutOfRetention(
            "the log has a hole",
            where=f"volume {volume.volume}, positions ({hole.after}, {hole.through}]",
            next="Rebuild the log from the commands.",
        )
    return len(log.logs[volume.volume].changed(after=volume.origin_position, through=through))


class ProgressFollower:
    """The newest report of each secondary, from the progress topic.

    reports: by (site, volume).
    """

    def __init__(self, settings: Settings) -> None:
        self._reader = KafkaReader(settings.kafka_client(), tells_end=False)
        self._reader.assign(settings.topics.progress, {0: None})
        self.reports: dict[tuple[str, str], SiteProgress] = {}

    def poll(self, timeout_s: float) -> None:
        """Read the reports that are there; wait up to `timeout_s` for the first.

        Only the newest report of each secondary is decoded: sites publish several of each.
        """
        messages = self._reader.poll(timeout_s, max_messages=_POLLED_REPORTS)
        newest = {message.key: message.value for message in messages if message.value is not None}
        for value in newest.values():
            report = decode(value, object)
            if isinstance(report, SiteProgress):
                self.reports[report.site, report.volume] = report

    def unproved(self, site: str, positions: Mapping[str, int]) -> list[str]:
        """Return the volumes that the site hasn't proved consistent at `positions` or above."""

        def is_proved(volume: str, position: int) -> bool:
            report = self.reports.get((site, volume))
            return report is not None and (report.consistent_position or -1) >= position

        return [volume for volume, position in positions.items() if not is_proved(volume, position)]

    def reports_of(self, site: str) -> list[SiteProgress]:
        """Return the site's reports."""
        return [report for (name, _), report in self.reports.items() if name == site]

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


def differing_volumes(
    files: Mapping[str, tuple[Path, Path]], block_size: int, progress: Callable[[int], None]
) -> dict[str, int]:
    """Return how many blocks differ, for each volume whose files aren't identical.

    files: (primary, secondary) by volume. progress: called with the bytes compared since the last
    call.
    """
    differing = {}
    for volume, (primary, secondary) in files.items():
        comparison = compare_files(primary, secondary, block_size=block_size, progress=progress)
        if not comparison.identical:
            differing[volume] = comparison.different_blocks
    return differing
