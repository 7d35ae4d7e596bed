"""A secondary to fork to, without a site: its mark, and the report of a site that knows all."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from uuid import uuid4

from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.adapters.secondary_marks import mark_path, write_marks
from mirrorlog.codec.events import encode
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.settings import Settings

SITE: Final = "bench"
_FAR: Final = 1 << 40
"""A position behind all that a run writes."""


def marked(secondary: Path, volume: Volume) -> SecondaryMark:
    """Mark a file as the secondary of the site SITE; return the mark."""
    mark = SecondaryMark(secondary_id=str(uuid4()), site=SITE, volume=volume.volume)
    write_marks({mark_path(secondary): mark})
    return mark


def report_of_all(volume: Volume, mark: SecondaryMark) -> SiteProgress:
    """Return the report of the site that it has applied all, whatever is written."""
    return SiteProgress(
        site=SITE,
        volume=volume.volume,
        generation=volume.generation,
        state=SiteState.SYNCING,
        rung=Rung.CHANGED,
        applied_position=_FAR,
        consistent_position=None,
        watermark=_FAR,
        behind_blocks=0,
        behind_bytes=0,
        lag_s=0.0,
        blocks_copied=0,
        bytes_copied=0,
        at_us=1,
        secondary_id=mark.secondary_id,
    )


def publish_stand_in(settings: Settings, volume: Volume, secondary: Path) -> None:
    """Mark a file as the secondary of the site SITE, and report that the site has applied all.

    The host then lets the secondary into the fork at once. A site would do the same on another
    machine, from which it takes nothing of this one's time.
    """
    report = report_of_all(volume, marked(secondary, volume))
    publisher = KafkaPublisher(settings.kafka_client())
    publisher.publish(
        settings.topics.progress, 0, f"{SITE}/{volume.volume}".encode(), encode(report)
    )
    publisher.flush(30.0)
    publisher.close()
