"""The host: volumes whose writes are tracked and published (docs/host-api.md).

In reading order:

- volume_session.py: open_volume() opens a volume together with the host that it needs.
- open_options.py: the options of open_volume().
- wiring.py: the one place that puts a host together from the settings.
- host_metrics.py: the metrics of a host.
- writes/: a write's way, from pwrite() to the open batch.
- batches/: open batches, hot regions, writes without a lock.
- session/: a host's start, its volumes, its end.
- publishing/: tracking commands on their way to Kafka.
- durable/: the activity log and the spool.
- forks/: writes that also go to secondaries.
- nbd/: volumes as NBD exports.
- traces/, replay/: recordings of block I/O, and a host that replays them.
- importers/: recordings and dirty maps of other tools, published as commands.
"""

from mirrorlog.producers.open_options import OpenOptions
from mirrorlog.producers.volume_session import open_volume
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.producers.writes.volume_file import VolumeFile

__all__ = ["OpenOptions", "TrackedVolume", "VolumeFile", "open_volume"]
