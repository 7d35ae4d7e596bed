"""The host: volumes whose writes are tracked and published (docs/host-api.md).

Importing this package imports nothing else: the drill of a site needs nbdkit_process alone.

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

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mirrorlog.producers.open_options import OpenOptions
    from mirrorlog.producers.volume_session import open_volume
    from mirrorlog.producers.writes.tracked_volume import TrackedVolume
    from mirrorlog.producers.writes.volume_file import VolumeFile

__all__ = ["OpenOptions", "TrackedVolume", "VolumeFile", "open_volume"]

_MODULES: Final = {
    "OpenOptions": "open_options",
    "TrackedVolume": "writes.tracked_volume",
    "VolumeFile": "writes.volume_file",
    "open_volume": "volume_session",
}


def __getattr__(name: str) -> Any:
    """Import a name of this package on its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
