"""The side that writes: volumes that remember what is written to them (docs/host-api.md)."""

from mirrorlog.producers.tracked_volume import TrackedVolume
from mirrorlog.producers.volume_file import VolumeFile
from mirrorlog.producers.volume_session import How, open_volume

__all__ = ["How", "TrackedVolume", "VolumeFile", "open_volume"]
