"""The side that writes: volumes that remember what is written to them (docs/host-api.md)."""

from mirrorlog.producers.volume_session import How, open_volume
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.producers.writes.volume_file import VolumeFile

__all__ = ["How", "TrackedVolume", "VolumeFile", "open_volume"]
