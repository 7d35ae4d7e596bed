"""A secondary in a file becomes a primary, and a former primary a secondary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from notation import PRIMARY_ID, promotion, volume

from mirrorlog.adapters.addresses import open_primary
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.adapters.secondary_marks import mark_path, read_mark
from mirrorlog.consumers.failover.former_primary import (
    become_secondary,
    check_former,
    check_no_other,
    former_address,
    is_secondary_now,
)
from mirrorlog.consumers.failover.held_secondary import hold_secondary, is_primary_here
from mirrorlog.consumers.resync.meeting import MeetingStep, meet
from mirrorlog.consumers.secondary_files import SecondaryFiles
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.consumers.state.pauses import PauseFile, Pauses
from mirrorlog.consumers.state.secondary_state import SecondaryIdentity, SecondaryState
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.domain.primary_marks import new_mark
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.volume_states import apply
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.settings import Settings

SIZE = 1 << 20
ID = str(UUID(int=5))


class Site:
    """The site b with a secondary that was copied, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.path = folder / "v.img"
        FileDevice.create(self.path, SIZE).close()
        self.settings = Settings(state_dir=folder / "state")
        self.marks = PrimaryMarkFiles(self.settings.primary_marks_dir)
        self.volume = volume(size_bytes=SIZE, primary=(folder.parent / "p.img").as_uri())
        addresses = SiteAddresses("b", folder)
        self.files = SecondaryFiles(addresses, SitePrimaries(addresses, self.marks))
        mark = SecondaryMark(secondary_id=ID, site="b", volume="v", epoch=3)
        self.files.write_marks([(self.volume, mark)])
        present = self.files.find(self.volume).device
        assert present is not None
        identity = SecondaryIdentity(
            secondary_id=ID, epoch=3, size_bytes=SIZE, lasting=present.identity.lasting
        )
        self.state = SecondaryState(
            "v",
            self.volume.generation,
            applied_position=5,
            consistent_position=5,
            identity=identity,
        )
        self.states = SecondaryStateFiles(folder / "states")
        self.states.save(self.state)

    def promoted(self) -> Volume:
        described = apply(self.volume, promotion(), 9)
        return replace(described, primary=self.path.as_uri())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "b")


def test_a_held_secondary_is_paused_and_locked_until_the_end(site: Site) -> None:
    with hold_secondary("b", site.folder, site.volume, site.settings, patience_s=0) as held:
        assert (held.saved, held.doubt) == (site.state, None)
        assert PauseFile(site.folder).load().covers("v")
        with pytest.raises(BadUse, match="another process"):
            open_primary(site.path.as_uri(), exclusive=True)
    assert PauseFile(site.folder).load() == Pauses()
    open_primary(site.path.as_uri(), exclusive=True).close()


def test_what_an_operator_had_paused_stays_paused(site: Site) -> None:
    PauseFile(site.folder).change(lambda _: Pauses(volumes=frozenset({"v", "w"})))
    with hold_secondary("b", site.folder, site.volume, site.settings, patience_s=0):
        pass
    assert PauseFile(site.folder).load() == Pauses(volumes=frozenset({"v", "w"}))


def test_what_may_have_been_promoted_stays_paused(site: Site) -> None:
    with hold_secondary("b", site.folder, site.volume, site.settings, patience_s=0) as held:
        held.stays_paused = True
    assert PauseFile(site.folder).load().covers("v")


def test_what_a_dead_promoter_had_paused_goes_on_when_it_is_the_primary(site: Site) -> None:
    PauseFile(site.folder).change(lambda _: Pauses(volumes=frozenset({"v", "w"})))
    with hold_secondary("b", site.folder, site.volume, site.settings, patience_s=0) as held:
        held.become_primary(site.promoted())
    assert PauseFile(site.folder).load() == Pauses(volumes=frozenset({"w"}))


def test_the_site_is_waited_for_and_in_the_end_given_up(site: Site) -> None:
    site.files.hold(site.volume)
    waits: list[float] = []

    def let_go(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            site.files.release(site.volume)

    with hold_secondary("b", site.folder, site.volume, site.settings, patience_s=9, sleep=let_go):
        assert len(waits) == 3
    site.files.hold(site.volume)
    with (
        pytest.raises(BadUse, match="another process"),
        hold_secondary("b", site.folder, site.volume, site.settings, patience_s=0),
    ):
        pass
    assert PauseFile(site.folder).load() == Pauses()


def test_a_cycle_that_the_state_doesn_t_know_is_no_consistency(site: Site) -> None:
    mark = SecondaryMark(secondary_id=ID, site="b", volume="v", epoch=4)
    site.files.write_marks([(site.volume, mark)])
    with hold_secondary("b", site.folder, site.volume, site.settings, patience_s=0) as held:
        assert held.saved is not None and held.doubt is None
        assert (held.saved.consistent_position, held.saved.cycle_through) == (None, 5)
    site.files.write_marks([(site.volume, replace(mark, epoch=9))])
    with hold_secondary("b", site.folder, site.volume, site.settings, patience_s=0) as held:
        assert "older than the secondary" in (held.doubt or "")


def test_an_export_is_refused(site: Site) -> None:
    settings = Settings(site_secondaries={"v": "nbd://h/v"})
    with (
        pytest.raises(BadUse, match="NBD export can't be promoted as one"),
        hold_secondary("b", site.folder, site.volume, settings, patience_s=0),
    ):
        pass
    assert PauseFile(site.folder).load() == Pauses()


def test_a_promoted_secondary_is_a_primary_for_everybody(site: Site) -> None:
    promoted = site.promoted()
    with hold_secondary("b", site.folder, site.volume, site.settings, patience_s=0) as held:
        assert held.is_marked_for(promoted)
        assert not is_primary_here("b", site.folder, promoted, site.settings)
        assert held.become_primary(promoted)
        assert held.is_marked_for(promoted)
        assert not held.is_marked_for(replace(promoted, primary_id=ID))
        assert not held.become_primary(promoted)
        mark = site.marks.read(held.device)
        assert mark is not None and mark.is_of(promoted) and mark.primary_id == PRIMARY_ID
    assert read_mark(mark_path(site.path)) is None
    with open_primary(site.path.as_uri(), exclusive=True):  # its host has it
        assert is_primary_here("b", site.folder, promoted, site.settings)
    assert not is_primary_here("b", site.folder, replace(promoted, primary_id=ID), site.settings)
    # Its site keeps off it, although it may not have read of the promotion.
    present = site.files.find(site.volume)
    mark_of = SecondaryMark(secondary_id=ID, site="b", volume="v", epoch=0)
    meeting = meet(mark_of, site.volume, site.state, present, primary=None, is_state_damaged=False)
    assert meeting.step is MeetingStep.REFUSE and "primary" in meeting.reason


@pytest.fixture
def former(site: Site) -> Path:
    """The primary of before, which is still marked as one."""
    path = site.folder.parent / "p.img"
    FileDevice.create(path, SIZE).close()
    with open_primary(path.as_uri(), exclusive=True) as device:
        mark = new_mark(site.volume, device.identity.lasting, str(UUID(int=6)))
        site.marks.write([(device, mark)])
    return path


def test_a_promotion_whose_second_mark_is_left_isnt_finished(site: Site) -> None:
    promoted = site.promoted()
    mark = SecondaryMark(secondary_id=ID, site="b", volume="v", epoch=3)
    with hold_secondary("b", site.folder, site.volume, site.settings, patience_s=0) as held:
        held.become_primary(promoted)
    site.files.write_marks([(site.volume, mark)])
    assert not is_primary_here("b", site.folder, promoted, site.settings)
    site.path.unlink()
    assert not is_primary_here("b", site.folder, promoted, site.settings)


def test_a_former_primary_becomes_a_secondary_that_knows_where_it_parted(
    site: Site, former: Path
) -> None:
    promoted = site.promoted()
    folder = site.folder.parent / "a"
    assert former_address(promoted) == former.as_uri()
    described = replace(promoted, secondaries={"a": former.as_uri()})
    with open_primary(former.as_uri(), exclusive=True) as device:
        former_state = check_former(promoted, device, former.as_uri(), site.marks)
        assert former_state.promotion == promoted.promotions[0]
        where = {"site": "a", "folder": folder, "marks": site.marks}
        assert not is_secondary_now(described, former.as_uri(), **where)  # type: ignore[arg-type]
        become_secondary(
            former_state, described, site="a", folder=folder, copies_all=False, marks=site.marks
        )
        assert site.marks.read(device) is None
        assert is_secondary_now(described, former.as_uri(), **where)  # type: ignore[arg-type]
        assert not is_secondary_now(promoted, former.as_uri(), **where)  # type: ignore[arg-type]
        with pytest.raises(BadUse, match="isn't marked as a primary"):
            check_former(promoted, device, former.as_uri(), site.marks)
    state = SecondaryStateFiles(folder / "states").load("v")
    assert state is not None and state.generation == site.volume.generation
    assert (state.applied_position, state.cycle_through) == (5, 9)
    addresses = SiteAddresses("a", folder)
    there = SecondaryFiles(addresses, SitePrimaries(addresses, site.marks)).find(described)
    mark_of = SecondaryMark(secondary_id=ID, site="a", volume="v", epoch=0)
    meeting = meet(mark_of, described, state, there, primary=None, is_state_damaged=False)
    assert meeting.step is MeetingStep.SAME


@pytest.mark.parametrize("step", ["the mark", "the state", "the other mark"])
def test_a_rejoin_that_dies_at_a_step_is_finished_by_the_next_one(
    site: Site, former: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = replace(site.promoted(), secondaries={"a": former.as_uri()})
    folder = site.folder.parent / "a"
    files = SecondaryFiles(
        SiteAddresses("a", folder), SitePrimaries(SiteAddresses("a", folder), site.marks)
    )

    def rejoin() -> None:
        with open_primary(former.as_uri(), exclusive=True) as device:
            known = check_former(described, device, former.as_uri(), site.marks)
            become_secondary(
                known, described, site="a", folder=folder, copies_all=False, marks=site.marks
            )

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    owner, name = {
        "the mark": (SecondaryFiles, "write_marks"),
        "the state": (SecondaryStateFiles, "save"),
        "the other mark": (PrimaryMarkFiles, "remove"),
    }[step]
    with monkeypatch.context() as killing, pytest.raises(RuntimeError, match="killed"):
        killing.setattr(owner, name, die)
        rejoin()
    # Until it is finished, the site keeps off it: it is marked as a primary.
    assert files.find(described).primary_of == "v"
    assert not is_secondary_now(
        described, former.as_uri(), site="a", folder=folder, marks=site.marks
    )
    rejoin()
    present = files.find(described)
    state = SecondaryStateFiles(folder / "states").load("v")
    assert present.primary_of is None and state is not None and state.identity is not None
    assert present.mark is not None and present.mark.secondary_id == state.identity.secondary_id
    assert (state.applied_position, state.cycle_through) == (5, 9)


def test_a_former_primary_of_which_nothing_is_known_is_copied_whole(
    site: Site, former: Path
) -> None:
    described = replace(site.promoted(), secondaries={"a": former.as_uri()})
    folder = site.folder.parent / "a"
    with open_primary(former.as_uri(), exclusive=True) as device:
        former_state = check_former(described, device, former.as_uri(), site.marks)
        become_secondary(
            former_state, described, site="a", folder=folder, copies_all=True, marks=site.marks
        )
    state = SecondaryStateFiles(folder / "states").load("v")
    assert state is not None and state.applied_position is None


def test_a_site_reads_no_former_primary_and_none_without_its_mark(site: Site, former: Path) -> None:
    promoted = site.promoted()
    elsewhere = SiteAddresses("c", site.folder.parent / "c", {"v": former.as_uri()})
    with pytest.raises(DeviceFailed, match="isn't the copy that was promoted"):
        SitePrimaries(elsewhere, site.marks).open(promoted)
    SitePrimaries(elsewhere, site.marks).open(site.volume).close()
    there = SitePrimaries(SiteAddresses("c", site.folder.parent / "c"), site.marks)
    with pytest.raises(DeviceFailed, match="isn't the copy that was promoted"):
        there.open(promoted)  # it has no mark of a primary yet
    with hold_secondary("b", site.folder, site.volume, site.settings, patience_s=0) as held:
        held.become_primary(promoted)
    there.open(promoted).close()


def test_neither_the_primary_nor_a_site_s_other_secondary_is_taken(
    site: Site, former: Path
) -> None:
    promoted = site.promoted()
    with hold_secondary("b", site.folder, site.volume, site.settings, patience_s=0) as held:
        held.become_primary(promoted)
        with pytest.raises(BadUse, match="is the volume's primary now"):
            check_former(promoted, held.device, site.path.as_uri(), site.marks)
    with pytest.raises(BadUse, match="keeps another secondary"):
        check_no_other(promoted, former.as_uri(), site="b", folder=site.folder)
    check_no_other(promoted, former.as_uri(), site="a", folder=site.folder.parent / "a")
    former.unlink()
    with pytest.raises(BadUse, match="no former primary of the volume is on this machine"):
        former_address(promoted)
