"""The options that name a point of a repository, and the point itself, to be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.point_at import NEWEST, chosen_point
from mirrorlog.consumers.backup.repository.catalog import VolumeCatalog
from mirrorlog.consumers.backup.repository.manifests import PointManifest
from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.repository.opening import open_repository
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock

FromRepositoryOption = Annotated[
    str,
    typer.Option("--repo", metavar="REPO", help="The repository: a folder or s3://BUCKET/PREFIX."),
]
AtOption = Annotated[
    str,
    typer.Option(
        "--at",
        metavar="POINT|TIME",
        help=f"The point: by its name, `{NEWEST}`, or the newest one that isn't after a time, as "
        "in '2h ago'.",
    ),
]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check", help="Compare the images with their digests first, which reads all of them."
    ),
]


@dataclass(frozen=True, slots=True)
class OpenedPoint:
    """A point of a repository that is open. manifest: what is known of it."""

    repository: Repository
    catalog: VolumeCatalog
    manifest: PointManifest

    def fields(self) -> dict[str, Any]:
        """Return what --json prints of the point."""
        manifest = self.manifest
        return {
            "volume": manifest.volume,
            "repository": self.repository.store.where,
            "point": manifest.point,
            "at": None if manifest.at_us is None else format_time(manifest.at_us),
            "written_at": format_time(manifest.written_at_us),
            "position": manifest.position.position,
            "is_consistent": manifest.position.is_consistent,
            "reason": manifest.reason,
            "size_bytes": manifest.size_bytes,
        }

    def text(self) -> str:
        """Return the point in words, for people."""
        manifest = self.manifest
        text = f"point {manifest.point} of {manifest.volume}, as of {format_time(manifest.time_us)}"
        if manifest.position.is_consistent:
            return text
        return f"{text}, NOT PROVED to equal the volume ({manifest.reason})"

    def check(self) -> None:
        """Compare all images of the point with their digests. Raise StateDamaged for damage."""
        with open_point(self.repository, self.catalog, self.manifest.point, reads_all=True):
            pass

    @contextmanager
    def image(self) -> Iterator[Path]:
        """Lend the image of the point, beside those on which it stands, as local files.

        Those of a bucket are copied first, and removed at the end. Raise as Repository.chain_files.
        """
        with self.repository.chain_files(self.catalog, self.manifest.point) as paths:
            yield paths[0]


def no_points(volume: str, where: str) -> BadUse:
    """Return the error for a volume of which a repository has nothing. where: the repository."""
    return BadUse(
        f"the repository has no points of volume {volume}",
        where=where,
        next="`mirrorlog backup list` shows the points.",
    )


@contextmanager
def opened_point(
    call: Invocation, volume: str, repository: str, at: str, *, checks: bool
) -> Iterator[OpenedPoint]:
    """Open the point that `at` names, until the block ends. Kafka isn't asked.

    checks: look for damage first. Raise as open_repository(), chosen_point() and OpenedPoint.check.
    """
    with open_repository(call.settings, repository) as opened:
        catalog = opened.catalog(volume)
        record = chosen_point(catalog, at, now_us=SystemClock().now_us())
        point = OpenedPoint(opened, catalog, record.manifest)
        if checks:
            point.check()
        yield point
