"""What a scrape of a site with many volumes costs: time, samples and bytes."""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from dataclasses import dataclass

from mirrorlog.adapters.metrics_page import MetricsExporter
from mirrorlog.consumers.resync.known_group import GroupFigures
from mirrorlog.consumers.resync.reporting import ReportedReplica
from mirrorlog.consumers.site_metrics import site_samples
from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.metric_samples import ExportingRole


@dataclass
class ManyVolumes:
    """A site whose volumes are all consistent, but for every hundredth."""

    volumes: int
    name: str = "berlin"
    worked_at_us: int = 10**15

    def now_us(self) -> int:
        """Return the time of all reports."""
        return self.worked_at_us

    def log_complete_us(self, partition: int) -> int:
        """Return the same: the log was complete then."""
        del partition
        return self.worked_at_us

    def reported(self) -> list[ReportedReplica]:
        """Return one report a volume."""
        return [_replica(number) for number in range(self.volumes)]

    def group_figures(self) -> list[GroupFigures]:
        """Return nothing: no volume is in a group."""
        return []


def _replica(number: int) -> ReportedReplica:
    is_behind = number % 100 == 0
    progress = SiteProgress(
        site="berlin",
        volume=f"volume-{number:05d}",
        generation="00000000-0000-0000-0000-000000000000",
        state=SiteState.SYNCING if is_behind else SiteState.CONSISTENT,
        rung=Rung.CHANGED,
        applied_position=number,
        consistent_position=number,
        watermark=number,
        behind_blocks=17 * is_behind,
        behind_bytes=17 * 4096 * is_behind,
        lag_s=1.5 * is_behind,
        blocks_copied=number,
        bytes_copied=number * 4096,
        at_us=10**15,
        last_applied_at_us=10**15,
    )
    return ReportedReplica(progress, 0.0, 1 << 40, 0, 10**15)


def main() -> None:
    """Print the medians of several scrapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    site = ManyVolumes(options.volumes)
    exporter = MetricsExporter(
        ExportingRole.SITE, lambda: site_samples(site, max_volumes=options.volumes)
    )
    taken_s, text = [], b""
    for _ in range(options.rounds):
        began_s = time.process_time()
        text = exporter.page("").text
        taken_s.append(time.process_time() - began_s)
    began_s = time.process_time()
    packed = gzip.compress(text, 3)
    packing_s = time.process_time() - began_s
    samples = sum(not line.startswith(b"#") for line in text.splitlines())
    print(
        f"{options.volumes} volumes: {samples} samples, {len(text) / 1e6:.1f} MB "
        f"({len(packed) / 1e6:.2f} MB compressed in {packing_s:.2f} s), "
        f"{statistics.median(taken_s):.2f} s of CPU"
    )


if __name__ == "__main__":
    main()
