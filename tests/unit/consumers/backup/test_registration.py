"""A repository is registered for as long as it needs the log, and says what it needs of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from backup_positions import at
from notation import GENERATION, OTHER_GENERATION, site_progress, volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.consumers.backup.sources.registration import Registrar, lost_log_reason
from mirrorlog.consumers.backup.sources.source_point import (
    BackupPosition,
    ChangesKnown,
    ChangesUnknown,
    ChosenBlocks,
    SourcePoint,
)
from mirrorlog.consumers.range_reads import DeviceReader
from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung
from mirrorlog.errors import BadInput
from mirrorlog.reading.present_state import PresentStateReader
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.topics import Topics

REPOSITORY = "55555555-5555-4555-8555-555555555555"
OTHER_REPOSITORY = "66666666-6666-4666-8666-666666666666"
TOPICS = Topics()
NOTHING = ChangesKnown(blocks=BlockSet(), zeroed=BlockSet())
CHOSEN = ChosenBlocks(rung=Rung.CHANGED, data=BlockSet(), zeros=BlockSet(), reason=None)


def report(**more: object) -> BackupReport:
    fields: dict[str, object] = {
        "repository": REPOSITORY,
        "address": "/backups",
        "volume": "v",
        "generation": GENERATION,
        "history_id": None,
        "position": 7,
        "host": "machine",
        "at_us": 5,
        "point": "20261128T231501Z-00000000",
        "point_at_us": 3,
        "written_at_us": 4,
        "is_consistent": True,
        "rung": "changed",
        "every_s": 3600.0,
    }
    return BackupReport(**(fields | more))  # type: ignore[arg-type]


def point(position: BackupPosition, reason: str | None = None) -> SourcePoint:
    return SourcePoint(
        volume=volume(),
        position=position,
        at_us=99,
        source="primary",
        reason=reason,
        reader=DeviceReader(MemoryDevice(1 << 20)),
        changes=NOTHING,
        allocated=None,
    )


class World:
    def __init__(self) -> None:
        self.clock = ManualClock(now_s=1000)
        self.broker = MemoryBroker(clock=self.clock)
        self.broker.create(TOPICS.specs(single_copy=True), 1)

    def registrar(self, repository: str = REPOSITORY) -> Registrar:
        patience = ReadPatience(self.clock, 1, "reading")
        return Registrar(
            id=repository,
            address="/backups",
            publisher=self.broker.publisher(),
            reader=CompactedTopic(self.broker.reader(), self.broker, TOPICS.progress, patience),
            topic=TOPICS.progress,
            clock=self.clock,
            host="machine",
            every_s=60,
        )

    def users(self) -> list[tuple[str, int | None]]:
        """Return what the node reads of who needs the log of v."""
        reports = SiteReports(self.broker.reader(), self.broker, TOPICS, self.clock)
        reports.refresh()
        assert all(site.site for site in reports.of("v"))
        return [
            (user.repository, user.position)
            if isinstance(user, BackupReport)
            else (user.site, user.applied_position)
            for user in reports.users_of("v")
        ]


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_point_is_registered_before_it_is_read(world: World) -> None:
    registrar = world.registrar()
    assert registrar.registered() == {}
    begun = registrar.begin(None, None, point(at(7)))
    assert world.users() == [(REPOSITORY, 7)]
    assert (begun.point, begun.is_consistent, begun.every_s) == (None, None, 60)
    done = registrar.finished(begun, point(at(7)), CHOSEN, name="p", written_at_us=5)
    assert registrar.registered() == {"v": done}
    assert (done.point, done.point_at_us, done.written_at_us, done.rung) == ("p", 99, 5, "changed")


def test_the_log_is_kept_for_the_last_point_until_the_next_is_finished(world: World) -> None:
    registrar = world.registrar()
    first = registrar.begin(None, None, point(at(7)))
    first = registrar.finished(first, point(at(7)), CHOSEN, name="p", written_at_us=5)
    begun = registrar.begin(first, at(7), point(at(20)))
    assert world.users() == [(REPOSITORY, 7)]
    failed = registrar.failed(begun, "the disk is full" + "." * 1000)
    assert world.users() == [(REPOSITORY, 7)]
    assert (failed.point, failed.failure) == ("p", "the disk is full" + "." * 484)
    begun = registrar.begin(failed, at(7), point(at(30)))
    registrar.finished(begun, point(at(30), "why"), CHOSEN, name="q", written_at_us=6)
    assert world.users() == [(REPOSITORY, 30)]
    last = registrar.registered()["v"]
    assert (last.point, last.failure, last.reason) == ("q", None, "why")


@pytest.mark.parametrize(
    ("known", "base", "needed"),
    [
        (report(position=7), at(5), 5),  # the last manifest wasn't registered, or was pruned
        (report(position=5), at(7), 5),  # the process died before it was registered
        (report(position=5, generation=OTHER_GENERATION), at(7), 7),
        (report(position=5, history_id=OTHER_GENERATION), at(7), 7),
        (report(position=5, generation=OTHER_GENERATION), None, 20),
        (None, at(7), 7),  # the registration was ended
    ],
)
def test_the_lower_of_two_positions_of_one_history_is_needed(
    world: World, known: BackupReport | None, base: BackupPosition | None, needed: int
) -> None:
    begun = world.registrar().begin(known, base, point(at(20)))
    assert (begun.position, begun.generation, begun.history_id) == (needed, GENERATION, None)
    assert world.users() == [(REPOSITORY, needed)]


def test_the_end_of_a_registration_is_of_one_volume_and_repository(world: World) -> None:
    one, other = world.registrar(), world.registrar(OTHER_REPOSITORY)
    for registrar in (one, other):
        registrar.begin(None, None, point(at(7)))
    world.broker.append(TOPICS.progress, 0, b"a/v", encode(site_progress(site="a")))
    one.end("v")
    one.end("w")
    assert one.registered() == {}
    assert sorted(world.users(), key=str) == [(OTHER_REPOSITORY, 7), ("a", None)]


def test_a_report_of_a_newer_release_leaves_the_others_readable(world: World) -> None:
    registrar = world.registrar()
    registrar.begin(None, None, point(at(7)))
    key = report(volume="w").key
    world.broker.append(TOPICS.progress, 0, key, b"\xc3\x01unknown")
    assert list(registrar.registered()) == ["v"]


def test_the_present_state_has_backups_beside_sites(world: World) -> None:
    world.registrar().begin(None, None, point(at(7)))
    world.broker.append(TOPICS.progress, 0, b"a/v", encode(site_progress(site="a")))
    for only in (None, "v", "w"):
        reader = PresentStateReader(
            world.broker.reader, world.broker, TOPICS, world.clock, only_volume=only
        )
        state = reader.refresh()
        assert list(state.backups) == ([] if only == "w" else [(REPOSITORY, "v")])
        assert list(state.secondaries) == ([] if only == "w" else [("a", "v")])
        assert state.unreadable == {}


LOST = ChangesUnknown("the log has a hole", lost_log=True)


@pytest.mark.parametrize(
    ("changes", "known", "why"),
    [
        (NOTHING, None, None),
        (ChangesUnknown("another history"), report(), None),
        (LOST, None, "wasn't registered"),
        (LOST, report(position=9), "stands on an older one"),
        (LOST, report(position=7), "node_keep_past_sites_after_s"),
    ],
)
def test_what_retention_took_without_waiting_is_said(
    changes: ChangesKnown | ChangesUnknown, known: BackupReport | None, why: str | None
) -> None:
    reason = lost_log_reason(changes, known, at(7))
    assert reason is None if why is None else why in (reason or "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"repository": "v"},
        {"generation": "v"},
        {"history_id": "v"},
        {"position": -2},
        {"point": None},
        {"written_at_us": None},
    ],
)
def test_impossible_reports_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        report(**wrong)
    good = encode(report())
    with pytest.raises(BadInput):
        decode(good[:-1], BackupReport)


def test_a_report_comes_back_from_its_bytes() -> None:
    bare = replace(report(), point=None, written_at_us=None, is_consistent=None, every_s=None)
    for sent in (report(), bare, report(failure="full", reason="why", history_id=REPOSITORY)):
        assert decode(encode(sent), BackupReport) == sent


def test_bytes_of_this_release_stay_readable() -> None:
    """Golden bytes of backup_report.v1."""
    assert decode(bytes.fromhex(GOLDEN), BackupReport) == report()


GOLDEN = (
    "c30108884efee0c9e8864835353535353535352d353535352d343535352d383535352d353535353535353535"
    "353535102f6261636b75707302764831313131313131312d313131312d343131312d383131312d3131313131"
    "31313131313131000e0e6d616368696e650a02323230323631313238543233313530315a2d30303030303030"
    "30020602080201020e6368616e676564000002000000000020ac40"
)
