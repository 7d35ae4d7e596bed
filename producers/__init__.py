"""The side that writes: volumes that remember what is written to them (docs/host-api.md)."""

from mirrorlog.producers.volume_session import OpenOptions, open_volume
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.producers.writes.volume_file import VolumeFile

__all__ = ["OpenOptions", "TrackedVolume", "VolumeFile", "open_volume"]
