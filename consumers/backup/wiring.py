"""Puts taking a point together from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mirrorlog import __version__
from mirrorlog.changed.ask import query_ports
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.consumers.backup.repository.opening import open_repository
from mirrorlog.consumers.backup.sources.secondary_source import SecondarySource
from mirrorlog.consumers.backup.sources.source_point import SourcePoint
from mirrorlog.consumers.backup.sources.wiring import open_primary_source, open_registrar
from mirrorlog.consumers.backup.taking.image_writers import Qcow2Writer
from mirrorlog.consumers.backup.taking.taking import (
    Opening,
    OpensPoint,
    PointRequest,
    TakenPoint,
    TakingCalls,
    TakingPorts,
    take_point,
)
from mirrorlog.consumers.drills.holding import NotHeld
from mirrorlog.consumers.drills.wiring import ports_to_hold, still_address
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteChoice:
    """A site whose secondaries are backed up, so that primaries aren't touched.

    folder: of the site. copy_folder: where a reflink is made, on the secondary's file system.
    """

    site: str
    folder: Path
    copy_folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOptions:
    """How volumes are backed up.

    address: of the repository, which is created if there is none. site: None for the primary.
    images: the form of new images. wait_s: how long to wait for the log, or for a consistent
    secondary. every_s: the time between two backups, which `status` expects; None: nothing.
    lock_wait_s: how long to wait for another writer of the repository.
    """

    address: str
    site: SiteChoice | None
    images: Qcow2Writer
    wait_s: float
    every_s: float | None = None
    lock_wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupCalls:
    """What is told and asked meanwhile.

    await_site: waits until a site's secondary holds all that was written to a volume: called with
    the volume's name, the site and the longest wait, when what uses the volume is frozen.
    """

    taking: TakingCalls = field(default_factory=TakingCalls)
    await_site: Callable[[str, str, float], None] = lambda *_: None


def back_up(
    settings: Settings, request: PointRequest, options: BackupOptions, calls: BackupCalls
) -> TakenPoint:
    """Take one point of a volume, as take_point() does."""
    with (
        open_repository(
            settings, options.address, creates=True, lock_wait_s=options.lock_wait_s
        ) as repository,
        query_ports(settings, options.wait_s) as query,
        open_registrar(
            settings, repository.repository_id, repository.store.where, every_s=options.every_s
        ) as registrar,
    ):

        def describe(name: str) -> Volume:
            query.catalog.refresh()
            return query.catalog.volume_named(name)

        describe(request.volume)
        sources = _Sources(settings, request, options, calls, query)
        ports = TakingPorts(
            repository=repository,
            registrar=registrar,
            describe=describe,
            open_point=sources.opener(),
            images=options.images,
            clock=SystemClock(),
            calls=calls.taking,
            written_by=__version__,
        )
        return take_point(request, ports)


class _Sources:
    """Opens points of the source that is chosen."""

    def __init__(
        self,
        settings: Settings,
        request: PointRequest,
        options: BackupOptions,
        calls: BackupCalls,
        query: QueryPorts,
    ) -> None:
        self._settings: Final = settings
        self._request: Final = request
        self._options: Final = options
        self._calls: Final = calls
        self._query: Final = query

    def opener(self) -> OpensPoint:
        """Return what opens points."""
        return self._open_primary if self._options.site is None else self._open_secondary

    @contextmanager
    def _open_primary(self, opening: Opening) -> Iterator[SourcePoint]:
        with (
            open_primary_source(
                self._settings,
                opening.volume,
                self._query,
                staging=opening.staging,
                wait_s=self._options.wait_s,
                uses_snapshots=opening.attempt.uses_snapshots,
                on_held=opening.on_held,
            ) as source,
            source.point(opening.base) as point,
        ):
            yield point

    @contextmanager
    def _open_secondary(self, opening: Opening) -> Iterator[SourcePoint]:
        chosen, volume, wait_s = self._options.site, opening.volume, self._options.wait_s
        assert chosen is not None
        hooks = self._request.hooks
        if hooks.before is not None or hooks.after is not None:
            self._calls.await_site(volume.volume, chosen.site, wait_s)
        address = still_address(self._settings, volume, chosen.site, chosen.folder)
        hold = ports_to_hold(
            self._settings,
            volume,
            address,
            site=chosen.site,
            folder=chosen.folder,
            clock=self._query.clock,
            stopped=lambda: False,
        )
        source = SecondarySource(
            volume=volume,
            site=chosen.site,
            hold=hold,
            query=self._query,
            copy_folder=chosen.copy_folder,
            wait_s=wait_s,
            force=self._request.allows_inconsistent,
            on_held=opening.on_held,
        )
        with _in_words_of_backups(), source.point(opening.base) as point:
            yield point


@contextmanager
def _in_words_of_backups() -> Iterator[None]:
    """Say what to do about a secondary that isn't held, by the options of `mirrorlog backup`."""
    try:
        yield
    except NotHeld as error:
        raise NotHeld(
            error.what,
            where=error.where,
            next="Wait longer (--wait), stop what writes to it, or see `mirrorlog status`. With "
            "--allow-inconsistent, one that is paused is read all the same (`mirrorlog site "
            "pause`).",
        ) from error
