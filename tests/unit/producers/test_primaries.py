"""Each volume is opened on its own primary, and on the one of yesterday."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import pytest
from notation import SHORT_KINDS, promotion, volume

from mirrorlog.adapters.addresses import open_device, open_primary
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles, decode_mark, encode_mark
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.primary_marks import PrimaryMark, swap_reason
from mirrorlog.domain.volume_states import apply
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed, StateDamaged
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker

SIZE = 16 * 4096
SETTINGS = Settings(region_bytes=4096)
TOPIC = SETTINGS.topics.commands
WHOLE = f"dirty 0+{SIZE}"


@dataclass
class Rig:
    """Volumes whose primaries are files in one folder, and one host."""

    folder: Path
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    reports: list[str] = field(default_factory=list)
    seen: int = 0

    def __post_init__(self) -> None:
        self.broker.create(SETTINGS.topics.specs(single_copy=True), 1)
        self.primary = self.folder / "v.img"
        self.mark = self.folder / ".v.img.mirrorlog-primary"
        self.marks = PrimaryMarkFiles(self.folder / "primaries")
        FileDevice.create(self.primary, SIZE).close()

    def host(self, state: str = "state") -> Host:
        ports = HostPorts(
            DiskFolder(self.folder / state),
            self.broker.publisher(),
            SystemClock(),
            open_device,
            marks=self.marks,
        )
        return Host("h", ports, SETTINGS, {"v": self.described()}, report=self.reports.append)

    def described(self, name: str = "v", created_at_us: int = 1) -> Volume:
        return volume(name, SIZE, primary=self.primary.as_uri(), created_at_us=created_at_us)

    def open(
        self, host: Host, described: Volume | None = None, *, new: bool = False
    ) -> TrackedVolume:
        described = described or self.described()
        device = open_primary(described.primary, exclusive=True)
        try:
            request = OpenRequest(described, device, newly_created=new, on_close=None)
            return host.open_all([request])[described.volume]
        except BaseException:
            device.close()
            raise

    def run(self, *, new: bool = False) -> str:
        """Open the volume in a session of its own and close it. Return what that published."""
        with self.host() as host:
            opened = self.open(host, new=new)
            device = opened.tracker_and_volume[1].device
            opened.close()
            device.close()
        return self.published()

    def published(self) -> str:
        messages = self.broker.partition(TOPIC, 0).messages
        new, self.seen = [m for m in messages if m.position >= self.seen], len(messages)
        commands = [decode(message.value or b"", TrackingCommand) for message in new]
        return " · ".join(
            " ".join(
                [SHORT_KINDS[command.kind]]
                + [f"{extent.offset}+{extent.length}" for extent in command.extents]
            )
            for command in commands
            if command.volume
        )


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    assert rig.run(new=True) == "open · close"
    return rig


def test_a_former_primary_is_refused_and_the_promoted_one_is_vouched_for(rig: Rig) -> None:
    known = rig.marks.read(open_device(rig.primary.as_uri(), writable=False))
    assert known is not None
    promoted = apply(rig.described(), promotion(), 9)
    promoted = replace(promoted, primary=rig.primary.as_uri())
    with rig.host() as host, pytest.raises(BadUse, match="isn't the volume's primary"):
        rig.open(host, promoted)
    rig.mark.unlink()
    with rig.host() as host, pytest.raises(BadUse, match="isn't the volume's primary"):
        rig.open(host, promoted)
    assert rig.published() == ""
    # What the state folder knows of an earlier primary says nothing of the promoted one.
    rig.mark.write_bytes(encode_mark(replace(known, primary_id=promoted.primary_id or "")))
    device = open_primary(promoted.primary, exclusive=True)
    with device, rig.host() as host:
        host.open_all([OpenRequest(promoted, device, newly_created=False, is_promoted=True)])
    assert rig.published() == "open · close"
    device = open_primary(promoted.primary, exclusive=True)
    with device, rig.host() as host:
        host.open_all([OpenRequest(promoted, device, newly_created=False)])
    assert rig.published() == "open · close"


def test_the_primary_of_yesterday_is_opened_as_it_is(rig: Rig) -> None:
    assert rig.mark.exists()
    assert rig.run() == "open · close"
    link = rig.folder / "link.img"
    link.symlink_to(rig.primary)
    rig.primary = link
    assert rig.run() == "open · close"


def swap_file(rig: Rig) -> None:
    other = rig.folder / "other.img"
    other.write_bytes(rig.primary.read_bytes())
    other.replace(rig.primary)


def swap_folder(rig: Rig) -> None:
    rig.folder.joinpath("kept").mkdir()
    rig.primary.rename(rig.folder / "kept" / "v.img")
    rig.mark.rename(rig.folder / "kept" / rig.mark.name)
    FileDevice.create(rig.primary, SIZE).close()


def lose_mark(rig: Rig) -> None:
    rig.mark.unlink()


def other_mark(rig: Rig) -> None:
    mark = decode_mark(rig.mark.read_bytes(), "")
    rig.mark.write_bytes(
        encode_mark(
            PrimaryMark(
                primary_id=str(UUID(int=7)),
                volume=mark.volume,
                created_at_us=mark.created_at_us,
                lasting=mark.lasting,
            )
        )
    )


@pytest.mark.parametrize("swap", [swap_file, swap_folder, lose_mark, other_mark])
def test_a_primary_that_may_be_another_one_is_dirty_as_a_whole_once(rig: Rig, swap: object) -> None:
    swap(rig)  # type: ignore[operator]
    assert rig.run() == f"open · {WHOLE} · close"
    assert any("primary" in line and "whole" in line for line in rig.reports)
    assert rig.run() == "open · close"


def test_a_host_that_dies_before_the_volume_is_published_as_dirty_does_it_again(rig: Rig) -> None:
    swap_file(rig)
    host = rig.host()
    rig.broker.refused_topics.add(TOPIC)
    with pytest.raises(Exception, match=TOPIC):
        rig.open(host)
    host.abandon()
    rig.broker.refused_topics.clear()
    rig.published()
    assert WHOLE in rig.run()


@pytest.mark.parametrize(("name", "created_at_us"), [("w", 1), ("v", 2)])
def test_the_primary_of_another_volume_is_refused(rig: Rig, name: str, created_at_us: int) -> None:
    with rig.host() as host, pytest.raises(BadUse, match=r"the primary is that of .* 'v'"):
        rig.open(host, rig.described(name, created_at_us))
    assert rig.published() == ""


def test_a_primary_that_is_shorter_than_its_volume_is_refused(rig: Rig) -> None:
    os.truncate(rig.primary, SIZE - 1)
    with rig.host() as host, pytest.raises(BadUse, match=f"the primary has {SIZE - 1} bytes"):
        rig.open(host)
    assert rig.published() == ""


def test_a_damaged_mark_is_refused_and_named(rig: Rig) -> None:
    rig.mark.write_bytes(rig.mark.read_bytes()[:-2])
    with rig.host() as host, pytest.raises(StateDamaged, match=str(rig.mark)):
        rig.open(host)


def test_a_mark_lies_in_the_state_folder_where_it_cannot_lie_beside(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mirrorlog.adapters import primary_marks

    replace_files = primary_marks.replace_files

    def read_only(contents: dict[Path, bytes]) -> None:
        if rig.mark in contents:
            raise PermissionError(13, "Permission denied", str(rig.mark))
        replace_files(contents)

    rig.mark.unlink()
    monkeypatch.setattr(primary_marks, "replace_files", read_only)
    assert rig.run() == f"open · {WHOLE} · close"
    assert rig.run() == "open · close"
    assert len(list((rig.folder / "primaries").iterdir())) == 1


def test_a_mark_that_cannot_be_written_is_an_error(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mirrorlog.adapters import primary_marks

    def fail(contents: Collection[Path]) -> None:
        raise PermissionError(13, "Permission denied")

    rig.mark.unlink()
    monkeypatch.setattr(primary_marks, "replace_files", fail)
    with rig.host() as host, pytest.raises(DeviceFailed, match="the mark of a primary"):
        rig.open(host)


# The mark's lasting identity and id; what was opened, and what the folder knows | the reason
SWAPS = """
inode1 a | inode1 a | -
inode1 a | inode1 - | -               # the folder is new, or of an earlier release
inode1 a | inode2 a | swapped
inode1 a | inode1 b | isn't the one
-      a | inode1 a | -
inode1 a | -      a | -
none     | inode1 a | lost its mark
none     | inode1 - | -
"""


@pytest.mark.parametrize("case", SWAPS.strip().splitlines())
def test_reasons_to_doubt_a_primary(case: str) -> None:
    of_mark, opened, reason = (part.split("#", maxsplit=1)[0].strip() for part in case.split("|"))
    ids = {"a": str(UUID(int=1)), "b": str(UUID(int=2)), "-": ""}
    mark = None
    if of_mark != "none":
        lasting, primary_id = of_mark.split()
        mark = PrimaryMark(
            primary_id=ids[primary_id],
            volume="v",
            created_at_us=1,
            lasting=None if lasting == "-" else lasting,
        )
    lasting, known = opened.split()
    doubt = swap_reason(mark, lasting=None if lasting == "-" else lasting, known_id=ids[known])
    assert (doubt is None) if reason == "-" else (doubt is not None and reason in doubt)


def test_a_mark_is_read_back_and_any_other_bytes_are_damage() -> None:
    mark = PrimaryMark(primary_id=str(UUID(int=1)), volume="v", created_at_us=5, lasting="inode 1")
    content = encode_mark(mark)
    assert content == (
        b'{"crc32":331102933,"created_at_us":5,"format":"mirrorlog.primary_mark","lasting":'
        b'"inode 1","primary_id":"00000000-0000-0000-0000-000000000001","version":1,"volume":"v"}\n'
    )
    assert decode_mark(content, "x") == mark
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        with pytest.raises(StateDamaged):
            decode_mark(bytes(changed), "x")


def test_a_device_is_only_marked_through_this_machine(rig: Rig) -> None:
    device: BlockDevice = open_device(str(rig.primary), writable=False)
    with device:
        assert rig.marks.read(device) is not None
        rig.marks.remove(device)
        rig.marks.remove(device)
        assert rig.marks.read(device) is None
