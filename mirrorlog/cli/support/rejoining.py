"""A former primary follows the new one: what its host left is published, and its site described."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from mirrorlog.adapters.addresses import open_primary, parse_file_address
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd, parse_nbd_uri
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.describing import publish_changed
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.volume_view import volume_fields
from mirrorlog.consumers.failover.exported_copies import (
    ExportedCopy,
    check_exported,
    copy_samples,
)
from mirrorlog.consumers.failover.former_primary import (
    FormerPrimary,
    become_secondary,
    check_former,
    check_no_other,
    former_address,
    is_secondary_now,
)
from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.domain.promotions import Promotion
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, MirrorlogError
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.durable.activity_log import read_previous_log
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.wiring import HostWiring, default_host_name
from mirrorlog.settings import Settings


class HostNotRecovered(MirrorlogError):
    """The log doesn't name all that the host of a former primary wrote to it."""


def has_leftovers(call: Invocation, volume: Volume, mark: PrimaryMark, host: str) -> bool:
    """Return whether a host may have left writes to a primary unpublished. mark: of the primary.

    Raise HostNotRecovered if nobody knows that: the host's activity log must cover the volume, on
    this primary.
    """
    folder = DiskFolder(call.settings.state_dir / "host" / host)
    before, name = read_previous_log(folder), volume.volume
    activity = before.state.volumes.get(name)
    is_covered = activity is not None and activity.covered and not before.damaged
    if not is_covered or activity is None or activity.primary_id not in ("", mark.primary_id):
        raise HostNotRecovered(
            "nobody knows what was written to this copy and never published: the activity log of "
            "its host isn't here, is damaged, or is about another primary",
            where=f"volume {name}, host {host}, {call.settings.state_dir / 'host' / host}",
            next="Name the host with --host, and its state folder with --state-dir. If they are "
            "lost: --all copies everything.",
        )
    return name in before.volumes


def publish_leftovers(
    call: Invocation,
    volume: Volume,
    address: str,
    mark: PrimaryMark,
    promotion: Promotion,
    host: str,
) -> None:
    """Let the log name everything that a host wrote to a former primary.

    1. The host's activity log says which regions may hold writes that no command names.
    2. A session of the host publishes these regions as dirty, under the generation that the
       promotion ended, and ends.
    3. The activity log then holds nothing of the volume that isn't published.

    address, mark: of the former primary. promotion: the one that ended its time.
    Raise HostNotRecovered if one of this isn't so, BadUse if the host runs, and KafkaFailed.
    """
    if not has_leftovers(call, volume, mark, host):
        return
    former = replace(
        volume, generation=promotion.former_generation, primary=address, primary_id=None
    )
    with ExitStack() as stack:
        wiring = HostWiring(host, call.settings, stack)
        volumes: Mapping[str, Volume] = {**wiring.read_catalog(), volume.volume: former}
        wiring.start_host(volumes, forks={}, report=call.output.print_note).close()
    if has_leftovers(call, volume, mark, host):
        raise HostNotRecovered(
            "the host's activity log still holds writes that aren't published",
            where=f"volume {volume.volume}, host {host}",
            next="Mend what the lines above say, then run this again. --all copies everything.",
        )


def publish_secondary(settings: Settings, volume: Volume, site: str, address: str) -> Volume:
    """Publish the description with the address of a site's secondary; return it.

    Raise as publish_changed().
    """

    def with_address(described: Volume) -> Volume:
        return replace(described, secondaries={**described.secondaries, site: address})

    def has_address(described: Volume) -> bool:
        return described.secondaries.get(site) == address

    if has_address(volume):
        return volume
    return publish_changed(settings, volume, with_address, has_address)


@dataclass(frozen=True, slots=True)
class RejoinPlan:
    """What a rejoin does.

    former: the former primary, open and locked. address: of it on this machine. export: by which
    its site reaches it; None if it is here. named_after: the log names above this position all in
    which it differs from the primary; None if nobody knows that. copies_all: everything is copied.
    """

    volume: Volume
    site: str
    folder: Path
    address: str
    former: FormerPrimary
    named_after: int | None
    copies_all: bool
    marks: PrimaryMarkFiles
    export: ExportedCopy | None = None

    @property
    def kept_at(self) -> str:
        """The address by which the site reaches the copy."""
        return self.address if self.export is None else self.export.address

    @property
    def parted_position(self) -> int | None:
        """The position above which the log names all that is copied; None for everything."""
        return None if self.copies_all else self.named_after

    @property
    def needs_all(self) -> bool:
        """Whether nobody knows in which blocks it differs from the primary."""
        return self.named_after is None

    def cost(self) -> str:
        """Return what is given up, in sentences."""
        how = "a copy of everything." if self.copies_all else "the blocks that either side wrote."
        return (
            f"What {self.address} holds and {self.volume.primary} doesn't is lost. It follows as "
            f"the secondary of site {self.site}, by {how}"
        )

    def unknown_error(self) -> BadUse:
        """Return the error for a copy that has to be copied whole, if nobody asked for that."""
        return BadUse(
            "nobody knows in which blocks this copy differs from the primary",
            where=f"volume {self.volume.volume}, {self.address}",
            next="--all copies everything; if its site runs with --checksum, it reads both sides "
            "and writes what differs.",
        )


def first_primary_promotion(
    call: Invocation, volume: Volume, mark: PrimaryMark, host: str | None
) -> Promotion | None:
    """Return the promotion that ended the time of the first primary, by what its host knows.

    The description may know the first primary by an address that isn't a path of this machine. It
    is this copy if its host still knew the log, on this copy, where the copies parted. A copy that
    was left behind by an earlier `volume move` isn't known so far. Return None if it isn't proved.
    """
    folder = DiskFolder(
        call.settings.state_dir / "host" / (host or default_host_name(volume.volume))
    )
    activity = read_previous_log(folder).state.volumes.get(volume.volume)
    known = None if activity is None else activity.known_through
    if activity is None or known is None or activity.primary_id != mark.primary_id:
        return None
    for promotion in volume.promotions:
        parted = promotion.parted_position
        if promotion.former_primary_id is None and parted is not None:
            return promotion if known.position >= parted else None
    return None


@contextmanager
def open_plan(
    call: Invocation,
    name: str,
    *,
    site: str,
    folder: Path,
    copy: str | None = None,
    copies_all: bool = False,
    host: str | None = None,
    export: str | None = None,
) -> Iterator[RejoinPlan]:
    """Lock the former primary, and check that it can rejoin as the secondary of a site.

    copy: its address; None: the one that it had. copies_all: as the user asked. host: that wrote to
    it; None: this machine's. export: the NBD URI by which the site reaches it; None: it is here.
    Raise BadUse if it can't, UnknownVolume, DeviceFailed and KafkaFailed.
    """
    folder = folder.absolute()
    volume = find_volume(call.settings, name)
    if volume.primary_site == check_site_name(site):
        raise BadUse(
            "the secondary of this site is the volume's primary now",
            where=f"volume {name} at {site}",
            next="Name the site that is to keep the former primary.",
        )
    check_copy(copy, export, site, volume)
    address = parse_file_address(copy or former_address(volume)).uri
    marks = PrimaryMarkFiles(call.settings.primary_marks_dir)
    with open_primary(address, exclusive=True) as device:
        former = check_former(volume, device, address, marks)
        if former.promotion is None and copy is not None:
            promotion = first_primary_promotion(call, volume, former.mark, host)
            former = replace(former, promotion=promotion)
        check_no_other(volume, export or address, site=site, folder=folder)
        exported = None if export is None else sampled(call, volume, device, export)
        named_after = None
        if former.promotion is not None:
            named_after = volume.parted_after(former.promotion.former_generation)
        copies_all = copies_all or named_after is None
        yield RejoinPlan(
            volume, site, folder, address, former, named_after, copies_all, marks, exported
        )


def is_following(
    call: Invocation,
    volume: Volume,
    site: str,
    folder: Path,
    *,
    copy: str | None = None,
    export: str | None = None,
) -> bool:
    """Return whether the former primary follows as the site's secondary already.

    copy, export: as in open_plan(). Raise BadUse if no former primary is here, and DeviceFailed.
    """
    newest = find_volume(call.settings, volume.volume)
    return is_secondary_now(
        newest,
        parse_file_address(copy or former_address(newest)).uri,
        site=site,
        folder=folder.absolute(),
        marks=PrimaryMarkFiles(call.settings.primary_marks_dir),
        export=export,
    )


def check_copy(copy: str | None, export: str | None, site: str, volume: Volume) -> None:
    """Raise BadUse unless the copy is named as a file or device, and its export as an NBD URI."""
    if copy is not None and is_nbd(copy):
        uri = parse_nbd_uri(copy)
        raise BadUse(
            "nothing tells through an NBD export that it is the former primary, or that its host "
            "has left it",
            where=f"volume {volume.volume}, {uri}",
            next=f"Run this where its server has the file: --copy FILE --address {uri}. Or compare "
            f"everything: `mirrorlog site run {site} --secondary {volume.volume}={uri} "
            "--checksum`.",
        )
    if export is not None and not is_nbd(export):
        raise BadUse(
            "this isn't the address of an NBD export",
            where=f"volume {volume.volume}, {export}",
            next="Without --address, the site finds the former primary at its path.",
        )


def sampled(call: Invocation, volume: Volume, device: BlockDevice, export: str) -> ExportedCopy:
    """Return the export of a copy with samples of it, after a look whether it serves the copy.

    Raise BadUse if it serves something else, or if the copy holds nothing by which to tell it.
    """
    samples = copy_samples(device, str(uuid4()))
    if not samples:
        raise BadUse(
            "the copy holds zeros alone, so nothing would tell its export from another one",
            where=f"volume {volume.volume}",
            next=f"Use it as a new secondary: `mirrorlog site run SITE --secondary "
            f"{volume.volume}={parse_nbd_uri(export)}`.",
        )
    exported = ExportedCopy(export, samples)
    if (unknown := check_exported(exported, volume)) is not None:
        call.output.print_note(
            f"the export can't be looked at now ({unknown}). Its site looks whether it holds what "
            "this copy holds when it connects"
        )
    return exported


def rejoin_by(
    call: Invocation, plan: RejoinPlan, host: str | None, *, is_published: bool = False
) -> Volume:
    """Do steps 2 to 4 of `rejoin`; return the volume's description.

    host: that wrote to the former primary; None: this machine's. is_published: step 2 is known to
    have nothing to do.
    """
    volume, promotion = plan.volume, plan.former.promotion
    if not plan.copies_all and promotion is not None and not is_published:
        name = host or default_host_name(volume.volume)
        publish_leftovers(call, volume, plan.address, plan.former.mark, promotion, name)  # 2
    volume = publish_secondary(call.settings, volume, plan.site, plan.kept_at)  # 3
    become_secondary(
        plan.former,
        volume,
        site=plan.site,
        folder=plan.folder,
        copies_all=plan.copies_all,
        marks=plan.marks,
        export=plan.export,
    )  # 4
    return volume


def rejoined_fields(plan: RejoinPlan, volume: Volume) -> dict[str, object]:
    """Return what a rejoin has done, as JSON has it."""
    return {
        "schema_version": 1,
        **volume_fields(volume),
        "site": plan.site,
        "parted_position": plan.parted_position,
        "copies_all": plan.copies_all,
    }


def print_rejoined(call: Invocation, plan: RejoinPlan, volume: Volume) -> None:
    """Say for people what a rejoin has done."""
    how = f"what changed after position {plan.parted_position}"
    if plan.copies_all:
        how = "a copy of everything"
    where = "here" if plan.export is None else "where this folder is, or carry it there"
    call.output.print_text(
        f"{plan.kept_at} is the secondary of volume {volume.volume} at site "
        f"{plan.site} now, and follows by {how}. Run the site {where}: "
        f"`mirrorlog site run {plan.site} --dir {plan.folder}`"
    )
