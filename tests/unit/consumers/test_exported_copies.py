"""A former primary rejoins as the export of a server: its site copies what either side wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from nbd_sites import NbdRig, consistent_rig
from notation import OTHER_GENERATION, promotion

from mirrorlog.adapters.addresses import open_primary
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.consumers.failover.exported_copies import (
    ExportedCopy,
    check_exported,
    copy_samples,
)
from mirrorlog.consumers.failover.former_primary import (
    become_secondary,
    check_former,
    check_no_other,
)
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.primary_marks import new_mark
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volume_states import apply
from mirrorlog.errors import BadUse

BLOCK = 4096
FORMER_ID = str(UUID(int=6))


class RejoiningRig(NbdRig):
    """The rig's secondary was the primary until `primary` was promoted. Both parted behind that."""

    def part(self) -> None:
        """Promote `primary` at site b; the former primary gets one more write, the new one two."""
        self.stop()
        for left in (*self.folder.glob("states/*"), *self.folder.glob("marks/*")):
            left.unlink()
        self.marks = PrimaryMarkFiles(self.folder.parent / "primary-marks")
        with open_primary(self.secondary.as_uri(), exclusive=True) as device:
            mark = new_mark(self.volume, device.identity.lasting, FORMER_ID)
            self.marks.write([(device, mark)])
        promoted = promotion(
            generation=self.volume.generation,
            parted_position=self.log.through,
            primary=self.primary.as_uri(),
        )
        self.log.publish([promoted])
        described = apply(self.volume, promoted, self.log.through + 1)
        self.log.volumes["v"] = described
        self.log.flush(1)
        with self.secondary.open("r+b") as file:
            file.seek(5 * BLOCK)
            file.write(b"only the former primary" * 10)
        self.command(CommandKind.WRITES, f"{5 * BLOCK}+{BLOCK}")
        self.volume = described
        self.addresses = SiteAddresses("a", self.folder, {"v@b": self.primary_server.uri})
        self.describe(secondaries={"a": self.secondary_server.uri})
        assert self.volume.generation == OTHER_GENERATION
        self.command(CommandKind.SESSION_OPEN)
        self.write(2, 12)

    def rejoin(self) -> None:
        """Let the former primary rejoin as an export."""
        uri = self.secondary_server.uri
        with open_primary(self.secondary.as_uri(), exclusive=True) as device:
            former = check_former(self.volume, device, self.secondary.as_uri(), self.marks)
            former = replace(former, promotion=self.volume.promotions[-1])
            check_no_other(self.volume, uri, site="a", folder=self.folder)
            copy = ExportedCopy(uri, copy_samples(device, "seed"))
            assert check_exported(copy, self.volume) is None
            become_secondary(
                former,
                self.volume,
                site="a",
                folder=self.folder,
                copies_all=False,
                marks=self.marks,
                export=copy,
            )
            assert self.marks.read(device) is None

    def follow(self) -> Secondary:
        self.start()
        return self.settle()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[RejoiningRig]:
    with consistent_rig(tmp_path, RejoiningRig) as rig:
        rig.part()
        yield rig


def test_its_site_copies_what_either_side_wrote_and_nothing_else(rig: RejoiningRig) -> None:
    rig.rejoin()
    assert not rig.is_equal()
    secondary = rig.follow()
    assert secondary.state is SiteState.CONSISTENT and rig.is_equal()
    assert secondary.blocks_copied == 3


def test_another_disk_behind_the_export_is_not_taken_for_it(rig: RejoiningRig) -> None:
    rig.rejoin()
    rig.secondary.write_bytes(bytes(rig.volume.size_bytes))
    secondary = rig.follow()
    assert secondary.state is SiteState.CONSISTENT and rig.is_equal()
    assert secondary.blocks_copied > 3


def test_a_rejoin_without_samples_is_found_out(
    rig: RejoiningRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.copy_samples", lambda *_: ())
    rig.rejoin()
    rig.secondary.write_bytes(bytes(rig.volume.size_bytes))
    assert rig.follow().state is SiteState.CONSISTENT
    assert not rig.is_equal()


def test_an_export_of_something_else_is_refused_and_one_that_is_away_is_not(
    rig: RejoiningRig,
) -> None:
    with open_primary(rig.secondary.as_uri(), exclusive=True) as device:
        samples = copy_samples(device, "seed")
    assert samples
    rig.secondary.write_bytes(bytes(rig.volume.size_bytes))
    copy = ExportedCopy(rig.secondary_server.uri, samples)
    with pytest.raises(BadUse, match="serves something else"):
        check_exported(copy, rig.volume)
    rig.secondary_server.kill()
    assert "connecting failed" in str(check_exported(copy, rig.volume))
