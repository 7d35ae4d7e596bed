"""One process at a time runs a site, whichever order they come in and whatever happens to them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import pytest
from reports import PROGRESS

from mirrorlog.codec.events import decode, encode
from mirrorlog.consumers import name_fence
from mirrorlog.consumers.name_fence import BEAT_S, SILENT_S, FencePorts, NameFence
from mirrorlog.consumers.site_removal import check_removal_from, remove_from
from mirrorlog.consumers.state.site_folder import folder_id
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.errors import BadUse, StateDamaged
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import Message
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.topics import Topics

TOPICS = Topics()


@dataclass
class Rig:
    """A broker, and the processes that run: they publish while another one listens."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    clock: ManualClock = field(default_factory=ManualClock)
    running: list[NameFence] = field(default_factory=list)
    runs: int = 0

    def __post_init__(self) -> None:
        self.broker.create(TOPICS.specs(single_copy=True), 1)

    def process(self, *, folder: int = 1, machine: str = "m") -> NameFence:
        self.runs += 1
        lease = SiteLease(
            site="s",
            run=str(UUID(int=1000 + self.runs)),
            folder=str(UUID(int=folder)),
            machine=machine,
            term=1,
            host=f"host{self.runs}",
            pid=self.runs,
            started_at_us=0,
        )
        ports = FencePorts(
            Listening(self.broker, self),
            self.broker,
            self.broker.publisher(),
            self.clock,
            TOPICS.progress,
            30,
        )
        return NameFence(lease, ports)

    def start(self, *, folder: int = 1, machine: str = "m") -> NameFence:
        fence = self.process(folder=folder, machine=machine)
        fence.take()
        self.running.append(fence)
        return fence

    def beat(self, fence: NameFence) -> None:
        fence.keep()
        fence._ports.publisher.poll(0)


class Listening(MemoryReader):
    """Time passes while a process listens, and those that run publish meanwhile."""

    def __init__(self, broker: MemoryBroker, rig: Rig) -> None:
        super().__init__(broker)
        self._rig = rig

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> list[Message]:
        if timeout_s >= 0.5:
            self._rig.clock.now_s += timeout_s
            for fence in self._rig.running:
                self._rig.beat(fence)
        return list(super().poll(timeout_s, max_messages=max_messages))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_site_that_was_killed_gets_its_name_back_at_once(rig: Rig) -> None:
    rig.start()
    rig.running.clear()  # kill -9
    rig.start()
    assert rig.clock.now_s == 0


def test_a_site_that_ended_leaves_its_name_to_anybody(rig: Rig) -> None:
    rig.start().give_up()
    rig.running.clear()
    rig.start(folder=2, machine="n")
    assert rig.clock.now_s == 0


@pytest.mark.parametrize(("folder", "machine"), [(2, "m"), (1, "n"), (2, "n")])
def test_a_second_process_is_refused_and_told_which_one_runs(
    rig: Rig, folder: int, machine: str
) -> None:
    first = rig.start()
    with pytest.raises(BadUse, match="process 1 on host1, since 1970") as caught:
        rig.start(folder=folder, machine=machine)
    assert "name of its own" in caught.value.next
    rig.clock.now_s += BEAT_S
    rig.beat(first)


def test_a_site_that_died_elsewhere_is_continued_after_a_while(rig: Rig) -> None:
    rig.start()
    rig.running.clear()
    rig.start(folder=2, machine="n")
    assert SILENT_S <= rig.clock.now_s < SILENT_S + 2


def test_a_process_that_was_paused_notices_that_it_was_replaced(rig: Rig) -> None:
    paused = rig.start()
    rig.running.clear()
    second = rig.start(folder=2, machine="n")
    with pytest.raises(BadUse, match="process 2 on host2"):
        paused.keep()
    paused.give_up()  # says nothing: the name is the other's
    rig.clock.now_s += BEAT_S
    rig.beat(second)
    rig.running.append(second)
    with pytest.raises(BadUse, match="process 2"):
        rig.start(folder=3)


def test_a_process_that_was_paused_notices_that_its_site_was_removed(rig: Rig) -> None:
    """Compaction has taken the lease of the removal, and the terms begin again."""
    rig.start().give_up()
    paused = rig.start()
    rig.running.clear()
    rig.broker.append(TOPICS.progress, 0, b"s/", None)
    rig.start(folder=2, machine="n")
    with pytest.raises(BadUse, match="the site s was removed"):
        paused.keep()
    before = rig.broker.messages(TOPICS.progress)
    paused.give_up()  # says nothing
    assert rig.broker.messages(TOPICS.progress) == before


def test_a_removal_of_before_ends_no_process_that_started_since(rig: Rig) -> None:
    rig.start().give_up()
    rig.broker.append(TOPICS.progress, 0, b"s/", None)
    first = rig.start()
    fellow = rig.process()
    fellow.join(first.taken())
    rig.clock.now_s += BEAT_S
    for process in (first, fellow):
        rig.beat(process)


def test_of_two_that_start_at_once_the_first_in_the_partition_wins(rig: Rig) -> None:
    one, two = rig.process(), rig.process(folder=2)
    for fence in (one, two):  # both have read the topic to its end
        list(fence._topic.read_to_end())
    one._take_after(None)
    with pytest.raises(BadUse, match="process 1"):
        two._take_after(None)
    rig.clock.now_s += BEAT_S
    rig.beat(one)
    rig.clock.now_s += BEAT_S
    rig.beat(one)


def test_a_copy_of_a_running_folder_on_the_same_machine_ends_the_older_run(rig: Rig) -> None:
    """A machine that was cloned while it ran: the same folder, and the same id of the machine."""
    first = rig.start()
    second = rig.start()
    rig.clock.now_s += BEAT_S
    with pytest.raises(BadUse, match="process 2"):
        first.keep()
    second.keep()


def test_the_name_is_kept_at_intervals_only(rig: Rig) -> None:
    fence = rig.start()
    for _ in range(1000):
        rig.clock.now_s += 0.01
        rig.beat(fence)
    messages = rig.broker.messages(TOPICS.progress)
    assert len(messages) - 1 in (3, 4)


def test_leases_are_no_reports_and_damaged_ones_count_for_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.start()
    reports = SiteReports(rig.broker.reader(), rig.broker, TOPICS, SystemClock())
    reports.refresh()
    assert (list(reports.of("")), caplog.text) == ([], "")
    rig.broker.append(TOPICS.progress, 0, b"s/", b"damaged")
    rig.running.clear()
    rig.start()
    assert "can't be read" in caplog.text


def test_a_folder_keeps_its_id_and_belongs_to_one_site(tmp_path: Path) -> None:
    first = folder_id(tmp_path, "a")
    assert folder_id(tmp_path, "a") == first
    with pytest.raises(BadUse, match="that of the site a, not of b"):
        folder_id(tmp_path, "b")
    path = tmp_path / "site.json"
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))
    with pytest.raises(StateDamaged):
        folder_id(tmp_path, "a")
    path.write_bytes(
        b'{"crc32":1074347198,"format":"mirrorlog.site_folder",'
        b'"id":"0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","site":"a","version":1}\n'
    )
    assert folder_id(tmp_path, "a") == "0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10"


def test_a_site_looks_several_times_before_others_count_it_as_dead() -> None:
    assert name_fence.SILENT_S >= 3 * name_fence.BEAT_S


def test_a_lease_says_how_long_ago_the_site_had_caught_up_with_the_log() -> None:
    rig = Rig()
    fence = rig.start()
    ages = []
    for waited_s in (4.0, 5.0):
        fence.note_caught_up()
        rig.clock.now_s += waited_s
        fence.keep()
        fence._ports.publisher.poll(0)
        ages.append(last_lease(rig).caught_up_age_s)
    rig.clock.now_s += 4.0
    fence.keep()  # it copies, and no round ends
    fence._ports.publisher.poll(0)
    assert [*ages, last_lease(rig).caught_up_age_s] == [4.0, 5.0, 9.0]
    fence.note_caught_up(2.5)  # a mirror brought it so late
    rig.clock.now_s += 4.0
    fence.keep()
    fence._ports.publisher.poll(0)
    assert last_lease(rig).caught_up_age_s == 6.5


def last_lease(rig: Rig) -> SiteLease:
    values = [m.value for m in rig.broker.messages(TOPICS.progress) if m.key == b"s/"]
    return decode(values[-1] or b"", SiteLease)


def test_a_site_that_is_gone_is_removed_with_its_reports_and_one_that_lives_is_not() -> None:
    rig = Rig()
    fence = rig.start()
    values = {b"s/v1": b"report", b"s/v2": encode(PROGRESS), b"sea/v1": b"report"}
    for key, value in values.items():
        for name in (TOPICS.progress, TOPICS.verifications):
            rig.broker.append(name, 0, key, value)
    ports = replace(fence._ports, reader=rig.broker.reader(), publisher=rig.broker.publisher())
    patience = ReadPatience(rig.clock, 30, "reading")

    def topic() -> CompactedTopic:
        return CompactedTopic(rig.broker.reader(), rig.broker, TOPICS.progress, patience)

    beating = replace(ports, reader=Listening(rig.broker, rig))
    for attempt in (check_removal_from, remove_from):
        with pytest.raises(BadUse, match="is run by another process"):
            attempt("s", beating, topic())
    fence.give_up()
    before = len(rig.broker.messages(TOPICS.progress))
    assert check_removal_from("s", ports, topic()) == {"v1": None, "v2": PROGRESS}
    assert len(rig.broker.messages(TOPICS.progress)) == before
    removed = remove_from("s", ports, topic(), TOPICS.verifications)
    assert removed == {"v1": None, "v2": PROGRESS}
    verified = {message.key: message.value for message in rig.broker.messages(TOPICS.verifications)}
    assert [verified[key] for key in values] == [None, None, b"report"]
    kept = {message.key: message.value for message in rig.broker.messages(TOPICS.progress)}
    assert [kept[key] for key in (b"s/", b"s/v1", b"s/v2", b"sea/v1")] == [None] * 3 + [b"report"]
    for attempt in (check_removal_from, remove_from):
        with pytest.raises(BadUse, match="there is no site 's'"):
            attempt("s", ports, topic())
