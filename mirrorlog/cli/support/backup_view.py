"""How points of backups are printed, for people and as JSON."""

from __future__ import annotations

from mirrorlog.changed.points import format_time
from mirrorlog.consumers.backup.repository.image_files import ImageFacts
from mirrorlog.consumers.backup.repository.manifests import PointManifest
from mirrorlog.units import format_size


def point_fields(manifest: PointManifest, image: ImageFacts) -> dict[str, object]:
    """Return what --json says of a point. image: what its file is now."""
    position = manifest.position
    return {
        "volume": manifest.volume,
        "point": manifest.point,
        "at": None if manifest.at_us is None else format_time(manifest.at_us),
        "written_at": format_time(manifest.written_at_us),
        "position": position.position,
        "generation": position.generation,
        "history_id": position.history_id,
        "is_consistent": position.is_consistent,
        "reason": manifest.reason,
        "source": manifest.source,
        "size_bytes": manifest.size_bytes,
        "block_size": manifest.block_size,
        "base": image.base,
        "rung": manifest.rung.value,
        "rung_reason": manifest.rung_reason,
        "layout": image.layout,
        "data_bytes": image.data_bytes,
        "stored_bytes": image.stored_bytes,
        "file_bytes": image.file_bytes,
        "hooks": list(manifest.hooks),
    }


def point_line(manifest: PointManifest) -> str:
    """Return a line on a point that was taken, for people."""
    at = "unknown" if manifest.at_us is None else format_time(manifest.at_us)
    image = manifest.image
    stands = "stands alone" if image.base is None else f"stands on {image.base}"
    proved = "consistent" if manifest.position.is_consistent else "INCONSISTENT"
    return (
        f"{manifest.volume}: point {manifest.point}, {proved} as of {at} (position "
        f"{manifest.position.position}), from {manifest.source}: {format_size(image.data_bytes)} "
        f"of the volume, {format_size(image.stored_bytes)} stored, {stands}"
    )
