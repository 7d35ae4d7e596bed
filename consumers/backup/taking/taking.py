"""Takes one point of a volume into a repository."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from mirrorlog.consumers.backup.repository.image_files import ImageFacts
from mirrorlog.consumers.backup.repository.manifests import PointManifest
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import (
    MAX_DEPTH,
    RepositoryWriter,
    open_writer,
)
from mirrorlog.consumers.backup.sources.hooks import Freeze, HookFailed, Hooks, frozen
from mirrorlog.consumers.backup.sources.live_reads import SourceChanged
from mirrorlog.consumers.backup.sources.registration import lost_log_reason
from mirrorlog.consumers.backup.sources.source_point import (
    BackupPosition,
    ChosenBlocks,
    SourcePoint,
    choose_blocks,
)
from mirrorlog.consumers.backup.taking.attempts import Attempt, AttemptEnd, next_attempt
from mirrorlog.consumers.backup.taking.base_choice import BaseChoice, chain_problem, choose_base
from mirrorlog.consumers.backup.taking.counted_reads import CountedReads
from mirrorlog.consumers.backup.taking.image_writers import ImageContent, WritesImages
from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, KafkaFailed, MirrorlogError, StateDamaged
from mirrorlog.ports.clock import Clock

log = logging.getLogger("mirrorlog.backup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a point is to be opened at its source.

    volume: its description as of now. attempt: which one it is. base: the position of the point on
    which the new one is to stand; None: it stands alone. staging: a folder for what is read of a
    moving primary. on_held: must be called once the point is fixed; a second call does nothing.
    """

    volume: Volume
    attempt: Attempt
    base: BackupPosition | None
    staging: Path
    on_held: Callable[[], None]


OpensPoint: TypeAlias = Callable[[Opening], AbstractContextManager[SourcePoint]]
"""Opens a point of a source, until its block ends. Raises as the sources do."""


class PointRefused(MirrorlogError):
    """A point that could be taken isn't what was asked for."""


class Registers(Protocol):
    """What keeps the log for the next point: Registrar."""

    def registered(self) -> Mapping[str, BackupReport]:
        """Do as Registrar says."""
        ...

    def begin(
        self, known: BackupReport | None, base: BackupPosition | None, point: SourcePoint
    ) -> BackupReport:
        """Do as Registrar says."""
        ...

    def finished(
        self,
        begun: BackupReport,
        point: SourcePoint,
        chosen: ChosenBlocks,
        *,
        name: str,
        written_at_us: int,
    ) -> BackupReport:
        """Do as Registrar says."""
        ...

    def failed(self, known: BackupReport, what: str) -> BackupReport:
        """Do as Registrar says."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRequest:
    """What point is asked for.

    is_full: the image stands alone. allows_inconsistent: a point is kept, too, if it isn't proved
    to be the volume as of one position, or if what was frozen thawed before the point was fixed.
    """

    volume: str
    hooks: Hooks
    is_full: bool = False
    allows_inconsistent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TakingCalls:
    """What is told meanwhile. say: a line for people, which must not be missed.

    on_begin: called with the number of bytes that will be read. on_read: called with the number of
    bytes of each read; it may raise to give the point up.
    """

    say: Callable[[str], None] = log.warning
    on_begin: Callable[[int], None] = lambda _: None
    on_read: Callable[[int], None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakingPorts:
    """What taking a point needs. describe: returns a volume's description as of now."""

    repository: Repository
    registrar: Registers
    describe: Callable[[str], Volume]
    open_point: OpensPoint
    images: WritesImages
    clock: Clock
    calls: TakingCalls = field(default_factory=TakingCalls)
    freeze: Callable[[Hooks], AbstractContextManager[Freeze]] = frozen
    max_depth: int = MAX_DEPTH
    written_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenPoint:
    """A point that is in the repository.

    unregistered: why the registration still names an older position; None if it doesn't. The log
    then keeps more than is needed, until the next point.
    """

    manifest: PointManifest
    frozen_s: float | None
    unregistered: str | None


def take_point(request: PointRequest, ports: TakingPorts) -> TakenPoint:
    """Take one point.

    1. Become the only writer of the repository.
    2. Choose the newest sound point as the base. Points that can't be stood on are named loudly.
    3. Run the command before, if there is one: it freezes what uses the volume.
    4. Open the point at its source, with what changed since the base.
    5. Run the command after. If what was frozen had thawed by then, or if the point isn't proved
       consistent, it is refused, or kept if that is asked for. The manifest says so.
    6. Register what the backup needs of the log, before the first byte is read from the point.
    7. Choose the blocks: what changed, else what is allocated, else all.
    8. Write them to an image in the repository's work folder, durably.
    9. Add the image, and then its manifest: from here on the point exists.
    10. Register the new position: the log needn't be kept below it any more.

    If the volume changes meanwhile, if a snapshot breaks, or if the base turns out to be damaged,
    the steps begin again at 2, a few times at most (next_attempt). After any error or kill, the
    points that were there are as before, and the log is kept for the next one.

    Raise PointRefused, HookFailed, BadUse if there is another writer, and what the sources, the
    repository and Kafka raise.
    """
    with open_writer(
        ports.repository, f"backup of {request.volume}", max_depth=ports.max_depth
    ) as writer:  # 1
        taking = _Taking(request, ports, writer)
        try:
            return taking.run()
        except MirrorlogError as error:
            taking.tell_failure(error)
            raise


class _AttemptFailed(Exception):
    """An attempt failed in a way after which another one may do better."""

    def __init__(self, end: AttemptEnd, error: MirrorlogError) -> None:
        super().__init__(end, error)
        self.end, self.error = end, error


class _Taking:
    """The steps behind the lock."""

    def __init__(self, request: PointRequest, ports: TakingPorts, writer: RepositoryWriter) -> None:
        self._request: Final = request
        self._ports: Final = ports
        self._writer: Final = writer
        self._known: BackupReport | None = None
        self._report: BackupReport | None = None
        self._damage: str | None = None

    def run(self) -> TakenPoint:
        """Take the point, in as many attempts as are allowed."""
        self._known = self._report = self._ports.registrar.registered().get(self._request.volume)
        attempt = Attempt(uses_base=not self._request.is_full)
        while True:
            try:
                return self._attempt(attempt)
            except _AttemptFailed as failed:
                following = next_attempt(attempt, failed.end)
                if following is None:
                    raise failed.error from failed
                self._ports.calls.say(f"the backup begins again: {failed.error}")
                if failed.end is AttemptEnd.BASE_DAMAGED:
                    self._damage = failed.error.what
                attempt = following

    def tell_failure(self, error: MirrorlogError) -> None:
        """Say in the registration, if there is one, that the attempt failed."""
        if self._report is None:
            return
        with suppress(MirrorlogError):
            self._ports.registrar.failed(self._report, str(error))

    def _attempt(self, attempt: Attempt) -> TakenPoint:
        ports, request = self._ports, self._request
        volume = ports.describe(request.volume)
        choice = self._choose_base(volume)  # 2
        base = choice.base.manifest.position if choice.base is not None else None
        try:
            with ports.freeze(request.hooks) as freeze:  # 3

                def thaw() -> None:
                    freeze.thaw()

                opening = Opening(
                    volume=volume,
                    attempt=attempt,
                    base=base if attempt.uses_base else None,
                    staging=self._writer.work,
                    on_held=thaw,
                )
                with ports.open_point(opening) as point:  # 4
                    hooks, frozen_s = self._accept(freeze, point)  # 5
                    self._report = ports.registrar.begin(self._report, base, point)  # 6
                    chosen = self._choose(point, choice, attempt)  # 7
                    manifest = self._write(point, chosen, choice, hooks)  # 8, 9
                    unregistered = self._finish(point, chosen, manifest)  # 10
                    return TakenPoint(
                        manifest=manifest, frozen_s=frozen_s, unregistered=unregistered
                    )
        except SourceChanged as error:
            raise _AttemptFailed(AttemptEnd.SOURCE_CHANGED, error) from error

    def _choose_base(self, volume: Volume) -> BaseChoice:
        repository = self._ports.repository
        catalog = repository.catalog(volume.volume)
        choice = choose_base(
            catalog, volume, lambda point: chain_problem(repository, catalog, point)
        )
        if choice.passed_over:
            self._ports.calls.say(
                f"{volume.volume}: {choice.passed_over_text}. Run `mirrorlog backup check`."
            )
        return choice

    def _accept(self, freeze: Freeze, point: SourcePoint) -> tuple[tuple[str, ...], float | None]:
        """Thaw, and refuse a point that isn't what was asked for. Return what is known of hooks."""
        request, said = self._request, self._ports.calls.say
        thawed = freeze.thaw()
        where = f"volume {request.volume}, position {point.position.position}"
        texts, frozen_s = _hook_texts(request.hooks), None
        if texts:
            frozen_s = thawed.frozen_s
        if texts and not thawed.is_in_time:
            late = f"what was frozen had thawed before the point was fixed ({thawed.cause})"
            if not request.allows_inconsistent:
                raise HookFailed(
                    late,
                    where=where,
                    next="Allow more time (--hook-timeout-s), or say --allow-inconsistent.",
                )
            said(f"{where}: {late}")
            texts = (*texts, late)
        if not point.is_consistent:
            reason = point.reason or "nobody says why"
            if not request.allows_inconsistent:
                raise PointRefused(
                    f"the point isn't proved to be the volume as of one moment: {reason}",
                    where=where,
                    next="Try again. With --allow-inconsistent it is kept, and marked.",
                )
            said(f"{where}: the point is INCONSISTENT: {reason}")
        return texts, frozen_s

    def _choose(self, point: SourcePoint, choice: BaseChoice, attempt: Attempt) -> ChosenBlocks:
        """Return the blocks, with the reason if there are more than what changed."""
        chosen = choose_blocks(point, has_base=choice.base is not None)
        if chosen.rung is Rung.CHANGED:
            return chosen
        reason = chosen.reason
        if not attempt.uses_base:
            reason = "a full image was asked for" if self._damage is None else self._damage
        elif choice.base is not None:
            base = choice.base.manifest.position
            reason = lost_log_reason(point.changes, self._known, base) or reason
        elif choice.passed_over:
            reason = choice.passed_over_text
        if reason is not None and not self._request.is_full:
            self._ports.calls.say(f"{self._request.volume}: an image of its own is taken: {reason}")
        return replace(chosen, reason=reason)

    def _write(
        self,
        point: SourcePoint,
        chosen: ChosenBlocks,
        choice: BaseChoice,
        hooks: tuple[str, ...],
    ) -> PointManifest:
        """Write the image, and add the point. Return its manifest."""
        ports, writer, volume = self._ports, self._writer, point.volume
        base = choice.base if chosen.rung is Rung.CHANGED else None
        content = ImageContent(
            size_bytes=volume.size_bytes,
            block_size=volume.block_size,
            data=chosen.data,
            zeros=chosen.zeros,
            base=None if base is None else base.point,
        )
        written_at_us = ports.clock.now_us()
        name = writer.new_point(written_at_us)
        path = writer.work / f"{name}{ports.repository.images.suffix}"
        ports.calls.on_begin(min(len(chosen.data) * volume.block_size, volume.size_bytes))
        reads = CountedReads(point.reader, ports.calls.on_read)
        try:
            image = ports.images.write(path, content, reads)  # 8
        except DeviceFailed as error:
            if reads.failure is None:
                raise
            raise _AttemptFailed(AttemptEnd.SOURCE_BROKE, error) from error
        manifest = self._manifest(point, chosen, image, hooks, name, written_at_us)
        try:
            return writer.add_point(manifest, path)  # 9
        except StateDamaged as error:
            if base is None:
                raise
            raise _AttemptFailed(AttemptEnd.BASE_DAMAGED, error) from error

    def _manifest(
        self,
        point: SourcePoint,
        chosen: ChosenBlocks,
        image: ImageFacts,
        hooks: tuple[str, ...],
        name: str,
        written_at_us: int,
    ) -> PointManifest:
        return PointManifest(
            repository_id=self._ports.repository.repository_id,
            volume=point.volume.volume,
            point=name,
            position=point.position,
            at_us=point.at_us,
            written_at_us=written_at_us,
            source=point.source,
            reason=point.reason,
            hooks=hooks,
            size_bytes=point.volume.size_bytes,
            block_size=point.volume.block_size,
            rung=chosen.rung,
            rung_reason=chosen.reason,
            image=image,
            written_by=self._ports.written_by,
        )

    def _finish(
        self, point: SourcePoint, chosen: ChosenBlocks, manifest: PointManifest
    ) -> str | None:
        """Register the new point. Return why that failed; None if it didn't."""
        assert self._report is not None
        try:
            self._ports.registrar.finished(
                self._report,
                point,
                chosen,
                name=manifest.point,
                written_at_us=self._ports.clock.now_us(),
            )
        except KafkaFailed as error:
            return str(error)
        return None


def _hook_texts(hooks: Hooks) -> tuple[str, ...]:
    """Return what a manifest says of the commands."""
    named = (("before", hooks.before), ("after", hooks.after))
    return tuple(f"{name}: {command}" for name, command in named if command is not None)
