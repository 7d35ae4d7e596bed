"""Repositories: points are added, read, merged and removed; whatever is damaged is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from plain_images import BLOCK, BackupWorld, TinyImages

from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.adapters.sealed_json import sealed_line
from mirrorlog.consumers.backup.repository.check import check_volume, without
from mirrorlog.consumers.backup.repository.manifests import (
    decode_point,
    encode_point,
    unsealed,
)
from mirrorlog.consumers.backup.repository.prune import prune_volume
from mirrorlog.consumers.backup.repository.prune_plan import Hide, Merge, Remove, plan_prune
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import open_writer
from mirrorlog.errors import BadUse, RepositoryFailed, StateDamaged
from mirrorlog.ports.backup_stores import RepositoryInUse
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_backups import MemoryBackups


def _world(store: MemoryBackups | None = None, **fields: object) -> BackupWorld:
    return BackupWorld(store or MemoryBackups(), **fields)  # type: ignore[arg-type]


def _points(world: BackupWorld, count: int) -> list[str]:
    world.write(*range(world.blocks))
    points = [world.backup()]
    for number in range(count - 1):
        world.write(number % world.blocks)
        points.append(world.backup())
    return points


def _prune(world: BackupWorld, *drop: str) -> None:
    world.prune(set(drop))
    for point in drop:
        del world.points[point]


def _assert_all_read(world: BackupWorld) -> None:
    assert world.visible() == list(world.points)
    for point, content in world.points.items():
        assert world.reads_as(point) == content


def _flip(store: MemoryBackups, name: str, byte: int = -1) -> None:
    content = bytearray(store.objects[name])
    content[byte] ^= 1
    store.objects[name] = bytes(content)


def test_each_point_reads_as_the_volume_was(tmp_path: Path) -> None:
    for store in (MemoryBackups(), FolderBackups(tmp_path / "repository")):
        world = _world(store)  # type: ignore[arg-type]
        for _ in range(12):
            world.write_some()
            world.backup()
        _assert_all_read(world)
        assert world.repository.volumes() == ("vol1",)
        assert not any((tmp_path / "repository" / ".work").glob("*"))


def test_a_repository_is_created_once_and_opened_only_where_there_is_one() -> None:
    store = MemoryBackups()
    with pytest.raises(BadUse, match="no repository"):
        Repository.open(store, TinyImages())
    created = Repository.create(store, TinyImages())
    assert Repository.open(store, TinyImages()).repository_id == created.repository_id
    with pytest.raises(BadUse, match="already"):
        Repository.create(store, TinyImages())
    _flip(store, "mirrorlog-backups.json", 12)
    with pytest.raises(StateDamaged, match="header of the repository"):
        Repository.open(store, TinyImages())


def test_a_later_version_of_the_header_is_refused() -> None:
    store = MemoryBackups()
    fields = {"format": "mirrorlog-backups", "version": 2, "repository_id": "x"}
    store.create("mirrorlog-backups.json", sealed_line(fields))
    with pytest.raises(StateDamaged, match="it is version 2 of mirrorlog-backups"):
        Repository.open(store, TinyImages())


def test_two_writers_are_refused() -> None:
    world = _world()
    with (
        open_writer(world.repository, "backup of vol1"),
        pytest.raises(BadUse, match="backup of vol1"),
        open_writer(world.repository, "prune"),
    ):
        pass


def test_a_long_chain_ends_in_an_image_that_stands_alone() -> None:
    world = _world(max_depth=4)
    for _ in range(10):
        world.write_some()
        world.backup()
    catalog = world.repository.catalog("vol1")
    assert [len(catalog.chain(point)) for point in world.points] == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    _assert_all_read(world)


def test_a_store_that_lets_nobody_overwrite_or_delete_takes_backups() -> None:
    store = MemoryBackups()

    def refuse(step: str, name: str) -> None:
        if step in ("replace", "delete"):
            raise RepositoryFailed("access is denied", where=name)

    store.before = refuse
    world = _world(store, max_depth=5)
    store.objects["volumes/vol1/20200101T000000Z-00000000.tiny"] = b"left by a killed backup"
    for _ in range(8):
        world.write_some()
        world.backup()
    _assert_all_read(world)
    store.before = lambda step, name: None
    _prune(world)
    assert "volumes/vol1/20200101T000000Z-00000000.tiny" not in store.objects


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: {**fields, "version": 2}, "its version is 2, and this release reads 1"),
        (lambda fields: {**fields, "format": "other"}, "no manifest of a point, but 'other'"),
        (lambda fields: {**fields, "more": 1}, "the manifest has other fields: more"),
        (lambda fields: {**fields, "size_bytes": "1"}, "size_bytes is '1'"),
        (lambda fields: {**fields, "size_bytes": True}, "size_bytes is 'True'"),
        (lambda fields: {**fields, "hooks": [1]}, "hooks aren't texts"),
        (lambda fields: {**fields, "rung": "all"}, "'all' is not a valid Rung"),
        (lambda fields: {**fields, "point": "p"}, "'p' names no point"),
        (lambda fields: {**fields, "image": {}}, "image has no digests"),
        (lambda fields: {**fields, "position": None}, "position is missing"),
        (
            lambda fields: {**fields, "image": {**fields["image"], "base": "../x"}},
            "'../x' names no point",
        ),
        (
            lambda fields: {**fields, "position": {**fields["position"], "anchor": "x"}},
            "'x' isn't an anchor",
        ),
    ],
)
def test_a_manifest_that_is_not_as_written_is_refused_and_says_why(
    change: Callable[[dict[str, object]], dict[str, object]], reason: str
) -> None:
    world = _world()
    _points(world, 2)
    record = world.repository.catalog("vol1").points[1]
    content = encode_point(record.manifest)
    assert decode_point(content, "w") == record.manifest
    with pytest.raises(StateDamaged, match="a manifest can't be read: ") as raised:
        decode_point(sealed_line(change(unsealed(content))), "w")
    assert reason in str(raised.value)


def test_each_flipped_bit_and_each_cut_of_a_manifest_is_found() -> None:
    world = _world()
    _points(world, 1)
    content = encode_point(world.repository.catalog("vol1").points[0].manifest)
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StateDamaged):
            decode_point(bytes(flipped), "w")
    for end in range(len(content)):
        with pytest.raises(StateDamaged):
            decode_point(content[:end], "w")


def test_a_plan_hides_merges_and_removes_in_this_order() -> None:
    world = _world()
    a, b, c, d, e = _points(world, 5)
    catalog = world.repository.catalog("vol1")
    assert plan_prune(catalog, {b, c}) == (
        Hide(b),
        Hide(c),
        Merge(d, (c, b), a),
        Remove(c),
        Remove(b),
    )
    assert plan_prune(catalog, {a}) == (Hide(a),), "the full image stays below a small one"
    for drop in ({e}, {"x"}):
        with pytest.raises(ValueError, match="only points can be dropped"):
            plan_prune(catalog, drop)


def test_a_full_image_is_merged_when_half_of_it_was_written_again() -> None:
    world = _world()
    first, *_ = _points(world, 2)
    world.write(*range(world.blocks))
    last = world.backup()
    catalog = world.repository.catalog("vol1")
    second = catalog.points[1].point
    assert plan_prune(catalog, {first, second})[2:] == (
        Merge(last, (second, first), None),
        Remove(second),
        Remove(first),
    )
    _prune(world, first, second)
    _assert_all_read(world)
    names = [name for name in world.store.names("") if not name.startswith("locks/")]
    assert len(names) == 3, "the header, an image and its manifest"


def test_a_point_on_which_several_stand_stays_until_one_does() -> None:
    world = _world()
    first, second = _points(world, 2)
    world.write(1)
    fork = world.backup(base=second)
    world.backup(base=second)
    _prune(world, second)
    _assert_all_read(world)
    assert second in world.repository.catalog("vol1").records
    _prune(world, fork)
    _assert_all_read(world)
    assert list(world.repository.catalog("vol1").records) == list(world.points)
    assert first in world.points


def test_damage_names_its_points_and_those_that_overwrite_it_are_sound() -> None:
    store = MemoryBackups()
    world = _world(store)
    a, b, c, d = _points(world, 4)  # b holds block 0, c block 1, d block 2
    world.write(0)
    e = world.backup()
    assert check_volume(world.repository, "vol1", read_data=True).sound == (a, b, c, d, e)
    _flip(store, f"volumes/vol1/{b}.tiny")
    checked = check_volume(world.repository, "vol1", read_data=True)
    (damage,) = checked.damages
    assert (damage.point, damage.ranges) == (b, ((0, BLOCK),))
    assert checked.affected == damage.affected == (b, c, d)
    assert checked.sound == (a, e)
    assert check_volume(world.repository, "vol1", read_data=False).damages == ()


def test_a_damaged_image_is_not_merged_into_a_sound_one() -> None:
    store = MemoryBackups()
    world = _world(store)
    a, b, c, _ = _points(world, 4)
    _flip(store, f"volumes/vol1/{b}.tiny")
    report = world.prune({b})
    assert f"the image of point {b} is damaged: piece 0 is damaged" in report.damaged[0]
    assert report.hidden == [b]
    checked = check_volume(world.repository, "vol1", read_data=True)
    assert [damage.point for damage in checked.damages] == [b]
    assert world.reads_as(a) == world.points[a]
    assert c in checked.affected


def test_a_damaged_manifest_takes_its_point_along_and_no_other() -> None:
    store = MemoryBackups()
    world = _world(store)
    a, b, c, _ = _points(world, 4)
    _flip(store, f"volumes/vol1/{b}.1.json", 40)
    checked = check_volume(world.repository, "vol1", read_data=True)
    assert checked.affected == (b,)
    del world.points[b]
    _assert_all_read(world)
    world.write(3)
    world.backup()
    _assert_all_read(world)
    with open_writer(world.repository, "prune") as writer, pytest.raises(StateDamaged):
        prune_volume(writer, "vol1", {c})
    _assert_all_read(world)
    assert a in world.points


@pytest.mark.parametrize("read_data", [True, False])
def test_images_that_are_missing_cut_or_exchanged_are_found(read_data: bool) -> None:
    store = MemoryBackups()
    world = _world(store)
    a, b, c, d = _points(world, 4)
    whole = dict(store.objects)

    def affected() -> tuple[str, ...]:
        checked = check_volume(world.repository, "vol1", read_data=read_data)
        assert checked.damages
        return checked.affected

    del store.objects[f"volumes/vol1/{b}.tiny"]
    assert affected() == (b, c, d)
    with pytest.raises(StateDamaged, match=f"the image of {b} is missing"):
        world.reads_as(d)
    store.objects = {**whole, f"volumes/vol1/{c}.tiny": whole[f"volumes/vol1/{d}.tiny"]}
    assert affected() == (c, d)
    with pytest.raises(StateDamaged, match="stands on"):
        world.reads_as(d)
    store.objects = {**whole, f"volumes/vol1/{d}.tiny": whole[f"volumes/vol1/{d}.tiny"][:-3]}
    assert affected() == (d,)
    store.objects = whole
    assert a in world.points


def test_two_points_never_name_one_image_nor_stand_on_themselves() -> None:
    store = MemoryBackups()
    world = _world(store)
    a, b, _ = _points(world, 3)
    record = world.repository.catalog("vol1").records[a]
    image = world.repository.catalog("vol1").records[b].image
    same = replace(record.manifest, image=replace(image, base=b))
    store.objects[f"volumes/vol1/{a}.2.json"] = encode_point(same)
    checked = check_volume(world.repository, "vol1", read_data=False)
    texts = " ".join(damage.what for damage in checked.damages)
    assert "another point names the same image" in texts
    assert "stands on itself" in texts
    assert checked.sound == ()


def test_ranges_without_others() -> None:
    for seed in range(300):
        random = Random(seed)

        def some() -> tuple[tuple[int, int], ...]:
            edges = sorted(random.sample(range(30), 6))  # noqa: B023
            return tuple(zip(edges[::2], edges[1::2], strict=True))

        first, second = some(), some()

        def points(ranges: tuple[tuple[int, int], ...]) -> set[int]:
            return {at for start, end in ranges for at in range(start, end)}

        assert points(without(first, second)) == points(first) - points(second)


def test_what_an_unreadable_point_may_need_is_not_removed() -> None:
    """The image on which it stands has lost its manifest, and looks like a killed backup's."""
    store = MemoryBackups()
    world = _world(store)
    world.write(1)
    first = world.backup(base=None)
    second = world.backup()
    world.write(2)
    world.backup(base=None)
    del store.objects[f"volumes/vol1/{first}.1.json"]
    whole = store.objects[f"volumes/vol1/{second}.1.json"]
    _flip(store, f"volumes/vol1/{second}.1.json", 40)
    world.backup()
    with open_writer(world.repository, "prune") as writer, pytest.raises(StateDamaged):
        prune_volume(writer, "vol1", set())
    assert f"volumes/vol1/{first}.tiny" in store.objects
    store.objects[f"volumes/vol1/{second}.1.json"] = whole
    assert world.repository.catalog("vol1").base_of(second) == first


def test_a_point_that_was_dropped_and_carries_others_is_not_restored() -> None:
    world = _world()
    first, second = _points(world, 2)
    assert world.prune({first}).hidden == [first]
    catalog = world.repository.catalog("vol1")
    assert [record.point for record in catalog.points] == [second]
    with pytest.raises(BadUse, match=f"no point {first}"):
        catalog.point(first)
    with pytest.raises(BadUse), world.repository.chain_files(catalog, first):
        pass
    assert world.reads_as(second) == world.points[second]


class PatientWriter:
    """A second writer of a repository, which waits for the first one. slept_s: its waits."""

    def __init__(self, *, lock_wait_s: float, first_ends_after: int) -> None:
        self.world, self.clock = BackupWorld(MemoryBackups()), ManualClock()
        self.slept_s: list[float] = []
        self.first = self.world.store.lock("backup of vol1")
        self.lock_wait_s, self.first_ends_after = lock_wait_s, first_ends_after

    def sleep(self, wait_s: float) -> None:
        self.clock.now_s += wait_s
        self.slept_s.append(wait_s)
        if len(self.slept_s) == self.first_ends_after:
            self.first.release()

    def write(self) -> None:
        repository = replace(self.world.repository, lock_wait_s=self.lock_wait_s)
        with open_writer(repository, "prune", clock=self.clock, sleep=self.sleep) as writer:
            writer.lock.check()


def test_a_second_writer_waits_for_the_first_one() -> None:
    patient = PatientWriter(lock_wait_s=9.5, first_ends_after=3)
    patient.write()
    assert patient.slept_s == [1.0] * 3


def test_a_second_writer_gives_up_when_its_time_is_over() -> None:
    patient = PatientWriter(lock_wait_s=2.5, first_ends_after=4)
    with pytest.raises(RepositoryInUse, match="backup of vol1"):
        patient.write()
    assert patient.slept_s == [1.0, 1.0, 0.5]
    impatient = PatientWriter(lock_wait_s=0, first_ends_after=1)
    with pytest.raises(RepositoryInUse, match="--lock-wait"):
        impatient.write()
    assert impatient.slept_s == []
