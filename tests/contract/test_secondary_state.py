"""What a site saves of a secondary is whole or refused, after damage and after crashes."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Protocol

import pytest

from mirrorlog.adapters import spare_files
from mirrorlog.adapters.spare_files import exchange_names
from mirrorlog.consumers.state.secondary_state import (
    MAX_SAMPLE_BYTES,
    MAX_SAMPLES,
    CommonPoint,
    Sample,
    SecondaryIdentity,
    SecondaryState,
    SecondaryStateStore,
)
from mirrorlog.consumers.state.state_files import (
    MAX_STATE_BYTES,
    SecondaryStateFiles,
    encode_state,
)
from mirrorlog.errors import BadUse, DeviceFailed, StateDamaged
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates

GENERATION = "6f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10"
OLD = SecondaryState(
    "vol1", GENERATION, applied_position=41, consistent_position=41, rung="full", updated_at_us=1
)
NEW = SecondaryState(
    "vol1", GENERATION, applied_position=41, cycle_through=977, rung="changed", updated_at_us=2
)


FULL = replace(
    OLD,
    rung="changed",
    updated_at_us=2,
    identity=SecondaryIdentity(
        secondary_id="0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10",
        epoch=7,
        size_bytes=1 << 20,
        lasting="inode 12 generation 3",
        primary="inode 9",
    ),
    samples=(Sample(4096, 512, "ab" * 16),),
)


class Rig(Protocol):
    @property
    def store(self) -> SecondaryStateStore: ...

    def reopened(self) -> SecondaryStateStore: ...
    def put(self, volume: str, content: bytes) -> None: ...


class FileRig:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a" / "b"
        self.store = SecondaryStateFiles(self.folder)

    def reopened(self) -> SecondaryStateStore:
        return SecondaryStateFiles(self.folder)

    def put(self, volume: str, content: bytes) -> None:
        (self.folder / f"{volume}.json").write_bytes(content)


class MemoryRig:
    def __init__(self) -> None:
        self.store = MemorySecondaryStates()

    def reopened(self) -> SecondaryStateStore:
        self.store.crash()
        return self.store

    def put(self, volume: str, content: bytes) -> None:
        self.store.contents[volume] = content


@pytest.fixture(params=["files", "memory"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    return FileRig(tmp_path) if request.param == "files" else MemoryRig()


def test_what_was_saved_is_loaded_and_the_rest_is_unknown(rig: Rig) -> None:
    other = replace(
        OLD, volume="vol1.tmp", applied_position=None, consistent_position=None, rung=None
    )
    for state in (OLD, other, FULL, NEW):
        rig.store.save(state)
    many = [replace(OLD, volume=f"v{number}") for number in range(150)]
    rig.store.save_all(many)
    store = rig.reopened()
    assert [store.load(state.volume) for state in many] == many
    assert (store.load("vol1"), store.load("vol1.tmp"), store.load("vol2")) == (NEW, other, None)


@pytest.mark.parametrize("name", ["", ".vol", "a/b", "../a", "a\n", "a" * 201, "ä"])
def test_a_name_never_leads_out_of_the_folder(rig: Rig, name: str) -> None:
    with pytest.raises(BadUse):
        rig.store.load(name)
    with pytest.raises(BadUse):
        replace(OLD, volume=name)


def damages(content: bytes) -> Iterator[bytes]:
    """Yield shorter and longer contents, and some with a bit flipped or a byte doubled or blank."""
    yield from (content[:length] for length in range(len(content)))
    for at in range(len(content)):
        yield from (
            content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :] for bit in range(8)
        )
        yield content[:at] + b" " + content[at + 1 :]
        yield content[:at] + content[at : at + 1] + content[at:]
        yield content[:at] + content[at + 1 :]
    yield from (
        content + b"\n",
        content + content,
        bytes(len(content)),
        b"[" * 60_000,
        b"1" * 60_000,
        b" " * 10**6,
    )


def test_any_damage_is_refused(rig: Rig) -> None:
    original = encode_state(NEW)
    for content in damages(original):
        if content == original:
            continue
        rig.put("vol1", content)
        with pytest.raises(StateDamaged) as caught:
            rig.store.load("vol1")
        assert "vol1" in caught.value.where
        assert "'full'" in caught.value.next


def sealed(**changes: object) -> bytes:
    """Return a state file with other content and the right checksum."""
    payload = {**json.loads(encode_state(OLD)), **changes}
    del payload["crc32"]

    def line(document: dict[str, object]) -> bytes:
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    return line({**payload, "crc32": zlib.crc32(line(payload))})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (sealed(version=8), "version 8"),
        (sealed(version=3), "checksum"),
        (sealed(version=2), "checksum"),
        (sealed(version=True), "version True"),
        (sealed(format="other"), "isn't the state"),
        (sealed(volume="vol2"), "'vol2'"),
        (sealed(surplus=1), "checksum"),
        (sealed(applied_position=41.0), "checksum"),
        (sealed(applied_position=True, consistent_position=None), "checksum"),
        (sealed(cycle_through=50), "checksum"),
        (sealed(rung="guess"), "checksum"),
        (sealed(generation=1), "checksum"),
        (b"", "JSON"),
        (b"null\n", "isn't the state"),
    ],
)
def test_a_sound_file_that_is_no_state_of_this_volume_is_refused(
    rig: Rig, content: bytes, why: str
) -> None:
    assert sealed() == encode_state(OLD)
    rig.put("vol1", content)
    with pytest.raises(StateDamaged, match=why):
        rig.store.load("vol1")


def test_version_1_stays_readable(rig: Rig) -> None:
    rig.put(
        "vol1",
        b'{"applied_position":41,"consistent_position":null,"crc32":2793522919,"cycle_through":977,'
        b'"format":"mirrorlog.secondary_state",'
        b'"generation":"6f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","rung":"changed",'
        b'"suspect_after":null,"updated_at_us":2,"version":1,"volume":"vol1"}\n',
    )
    assert rig.store.load("vol1") == NEW


def test_version_2_stays_readable(rig: Rig) -> None:
    rig.put(
        "vol1",
        b'{"applied_position":41,"changed_through":35,"consistent_position":null,'
        b'"crc32":1536765293,"cycle_through":null,"format":"mirrorlog.secondary_state",'
        b'"generation":"6f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","rung":"changed",'
        b'"suspect_after":30,"updated_at_us":2,"version":2,"volume":"vol1"}\n',
    )
    assert rig.store.load("vol1") == replace(
        NEW, cycle_through=None, suspect_after=30, changed_through=35
    )


def test_version_3_stays_readable(rig: Rig) -> None:
    content = (
        b'{"applied_position":41,"changed_through":null,"consistent_position":41,'
        b'"crc32":1581966196,"cycle_through":null,"format":"mirrorlog.secondary_state",'
        b'"generation":"6f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","identity":{"epoch":7,'
        b'"lasting":"inode 12 generation 3","primary":"inode 9",'
        b'"secondary_id":"0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","size_bytes":1048576},'
        b'"rung":"changed","samples":[[4096,512,"abababababababababababababababab"]],'
        b'"suspect_after":null,"updated_at_us":2,"version":3,"volume":"vol1"}\n'
    )
    rig.put("vol1", content)
    assert rig.store.load("vol1") == FULL
    for damaged in (
        content.replace(b'"epoch":7', b'"epoch":8'),
        content.replace(b'"size_bytes":1048576', b'"size_bytes":null'),
        content.replace(b"[4096,512,", b"[4096,true,"),
        content.replace(b"[[4096,", b"[[[4096],"),
    ):
        rig.put("vol1", damaged)
        with pytest.raises(StateDamaged):
            rig.store.load("vol1")


def test_version_5_stays_readable(rig: Rig) -> None:
    state = replace(
        FULL,
        applied_position=None,
        consistent_position=None,
        cycle_through=41,
        rung="allocated",
        history_id="1f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10",
        anchor="cd" * 16,
        copied_bytes=1 << 19,
    )
    content = (
        b'{"anchor":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","applied_position":null,"changed'
        b'_through":null,"consistent_position":null,"copied_bytes":524288,"crc32":12519'
        b'21686,"cycle_through":41,"format":"mirrorlog.secondary_state","generation":"6'
        b'f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","history_id":"1f1c1d36-3a0f-4d5e-9c55-0c'
        b'5a7c8a9d10","identity":{"epoch":7,"lasting":"inode 12 generation 3","primary"'
        b':"inode 9","secondary_id":"0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","size_bytes"'
        b':1048576},"rung":"allocated","samples":[[4096,512,"ababababababababababababab'
        b'ababab"]],"suspect_after":null,"updated_at_us":2,"version":5,"volume":"vol1"}'
        b"\n"
    )
    rig.put("vol1", content)
    assert rig.store.load("vol1") == state
    assert encode_state(state) == content
    rig.put("vol1", content.replace(b'"copied_bytes":524288', b'"copied_bytes":524289'))
    with pytest.raises(StateDamaged):
        rig.store.load("vol1")


@pytest.mark.parametrize(
    "contradiction",
    [
        {"cycle_through": None},
        {"applied_position": 3},
        {"rung": "changed"},
        {"copied_bytes": 0},
    ],
)
def test_only_an_unfinished_copy_of_everything_has_a_part_that_is_done(
    contradiction: dict[str, object],
) -> None:
    state = SecondaryState("vol1", GENERATION, cycle_through=7, rung="full", copied_bytes=4096)
    assert state.known_position == 7
    with pytest.raises(ValueError, match="copied_bytes"):
        replace(state, **contradiction)  # type: ignore[arg-type]


def test_version_6_stays_readable(rig: Rig) -> None:
    state = replace(FULL, common_point=CommonPoint("1f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10", 41))
    content = (
        b'{"anchor":null,"applied_position":41,"changed_through":null,"common_point":["1'
        b'f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10",41],"consistent_position":41,"copied_byte'
        b's":null,"crc32":2168723232,"cycle_through":null,"format":"mirrorlog.secondary_'
        b'state","generation":"6f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","history_id":null,"'
        b'identity":{"epoch":7,"lasting":"inode 12 generation 3","primary":"inode 9","se'
        b'condary_id":"0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","size_bytes":1048576},"rung'
        b'":"changed","samples":[[4096,512,"abababababababababababababababab"]],"suspect'
        b'_after":null,"updated_at_us":2,"version":6,"volume":"vol1"}\n'
    )
    rig.put("vol1", content)
    assert rig.store.load("vol1") == state
    assert encode_state(state) == content


def test_version_7_stays_readable(rig: Rig) -> None:
    point = CommonPoint("1f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10", 41, 5)
    content = (
        b'{"anchor":null,"applied_position":41,"changed_through":null,"common_point":["1'
        b'f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10",41,5],"consistent_position":41,"copied_by'
        b'tes":null,"crc32":825964626,"cycle_through":null,"format":"mirrorlog.secondary'
        b'_state","generation":"6f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","history_id":null,'
        b'"identity":{"epoch":7,"lasting":"inode 12 generation 3","primary":"inode 9","s'
        b'econdary_id":"0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","size_bytes":1048576},"run'
        b'g":"changed","samples":[[4096,512,"abababababababababababababababab"]],"suspec'
        b't_after":null,"updated_at_us":2,"version":7,"volume":"vol1"}'
        b"\n"
    )
    rig.put("vol1", content)
    assert rig.store.load("vol1") == replace(FULL, common_point=point)
    assert encode_state(replace(FULL, common_point=point)) == content
    rig.put("vol1", content.replace(b",41,5]", b",41,6]"))
    with pytest.raises(StateDamaged):
        rig.store.load("vol1")


def test_a_common_point_counts_where_the_secondary_is_consistent_at_it() -> None:
    point = CommonPoint("1f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10", 41)
    state = replace(FULL, applied_position=41, consistent_position=41, common_point=point)
    assert state.common_point_id == point.id
    for moved in (
        {"consistent_position": None},
        {"applied_position": 42, "consistent_position": 42},
        {"consistent_position": None, "cycle_through": 50},
        {"common_point": None},
    ):
        assert replace(state, **moved).common_point_id is None  # type: ignore[arg-type]
    for wrong in (("1F1C1D36-3a0f-4d5e-9c55-0c5a7c8a9d10", 4), (point.id, -2), ("x", 4)):
        with pytest.raises(ValueError, match=r"."):
            CommonPoint(*wrong)


def test_version_4_stays_readable(rig: Rig) -> None:
    content = (
        b'{"anchor":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","applied_position":41,"changed_th'
        b'rough":null,"consistent_position":41,"crc32":1452073241,"cycle_through":null,"'
        b'format":"mirrorlog.secondary_state","generation":"6f1c1d36-3a0f-4d5e-9c55-0c5a'
        b'7c8a9d10","history_id":"1f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","identity":{"epo'
        b'ch":7,"lasting":"inode 12 generation 3","primary":"inode 9","secondary_id":"0f'
        b'1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","size_bytes":1048576},"rung":"changed","sa'
        b'mples":[[4096,512,"abababababababababababababababab"]],"suspect_after":null,"u'
        b'pdated_at_us":2,"version":4,"volume":"vol1"}\n'
    )
    rig.put("vol1", content)
    assert rig.store.load("vol1") == replace(
        FULL, history_id="1f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10", anchor="cd" * 16
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": -1},
        {"size_bytes": None},
        {"secondary_id": GENERATION.upper()},
        {"lasting": 7},
    ],
)
def test_an_identity_that_none_has_cannot_be_made(changes: dict[str, object]) -> None:
    assert FULL.identity is not None
    with pytest.raises(ValueError):
        SecondaryIdentity(**{**asdict(FULL.identity), **changes})


@pytest.mark.parametrize("sample", [(-1, 1), (0, 0), (0, MAX_SAMPLE_BYTES + 1)])
def test_a_sample_that_is_none_cannot_be_made(sample: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        Sample(*sample, "ab" * 16)
    with pytest.raises(ValueError):
        replace(FULL, samples=FULL.samples * (MAX_SAMPLES + 1))


def test_the_largest_state_fits_a_file() -> None:
    samples = (Sample((1 << 63) - 1, MAX_SAMPLE_BYTES, "ab" * 16),) * MAX_SAMPLES
    assert len(encode_state(replace(FULL, samples=samples, volume="v" * 200))) < MAX_STATE_BYTES


@pytest.mark.parametrize(
    "changes",
    [
        {"cycle_through": 50},  # consistent while a cycle runs
        {"suspect_after": 40},  # consistent while blocks are suspect
        {"consistent_position": 42},
        {"consistent_position": None, "suspect_after": 42},
        {"applied_position": None},
        {"consistent_position": None, "cycle_through": 40},
        {"consistent_position": None, "cycle_through": 50, "rung": None},
        {"applied_position": -2},
        {"applied_position": 1 << 63},
        {"updated_at_us": -1},
        {"rung": "guess"},
        {"generation": GENERATION.upper()},
    ],
)
def test_a_state_that_contradicts_itself_cannot_be_made(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        SecondaryState(**{**asdict(OLD), **changes})


@pytest.mark.parametrize("step", ["write", "rename", "sync", None])
@pytest.mark.parametrize("seed", [None, *range(6)])
def test_a_crash_in_memory_leaves_old_or_new(step: str | None, seed: int | None) -> None:
    class PowerLost(Exception):
        pass

    def lose_power(at: str, volume: str) -> None:
        if at == step:
            raise PowerLost

    store = MemorySecondaryStates()
    store.save(OLD)
    store.hook = lose_power
    try:
        store.save(NEW)
    except PowerLost:
        store.crash(None if seed is None else Random(seed))
        assert store.load("vol1") in ((OLD, NEW) if step == "sync" and seed is not None else (OLD,))
    else:
        store.crash()
        assert store.load("vol1") == NEW


class Disk:
    """Records what makes a save durable, and what a loss of power after each step may leave.

    It assumes the weakest promise of POSIX: bytes are durable once their file was synced, a rename
    once its folder was synced.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.steps: list[tuple[str, str]] = []
        fsync, rename = os.fsync, os.replace

        def record_fsync(fd: int) -> None:
            self.steps.append(("fsync", Path(f"/proc/self/fd/{fd}").readlink().name))
            fsync(fd)

        def record_replace(source: str, target: str) -> None:
            self.steps.append(("replace", f"{Path(source).name} {Path(target).name}"))
            rename(source, target)

        def record_exchange(spare: Path, path: Path) -> bool:
            self.steps.append(("replace", f"{spare.name} {path.name}"))
            return exchange_names(spare, path)

        patch.setattr(os, "fsync", record_fsync)
        patch.setattr(os, "replace", record_replace)
        patch.setattr(spare_files, "exchange_names", record_exchange)

    def outcomes(self, volume: str, done: int, old: bytes, new: bytes) -> set[bytes]:
        steps = self.steps[:done]
        renames = [
            (index, names.split()[0])
            for index, (call, names) in enumerate(steps)
            if call == "replace" and names.endswith(f" {volume}.json")
        ]
        if not renames:
            return {old}
        ((renamed, temporary),) = renames
        contents = (
            {new} if ("fsync", temporary) in steps[:renamed] else {new, new[: len(new) // 2], b""}
        )
        return contents if ("fsync", self.folder.name) in steps[renamed:] else contents | {old}


def test_a_loss_of_power_between_any_two_steps_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = [f"vol{number}" for number in range(3)]
    store = SecondaryStateFiles(tmp_path)
    store.save_all([replace(OLD, volume=volume) for volume in volumes])
    disk = Disk(tmp_path, monkeypatch)
    store.save_all([replace(NEW, volume=volume) for volume in volumes])
    steps = len(disk.steps)
    for volume, done in product(volumes, range(steps + 1)):
        old, new = replace(OLD, volume=volume), replace(NEW, volume=volume)
        for content in disk.outcomes(volume, done, encode_state(old), encode_state(new)):
            store.path(volume).write_bytes(content)
            for left in (f".{volume}.tmp", ".mirrorlog-spares-0"):
                (tmp_path / left).write_bytes(encode_state(new)[: done * 20])
            store_now = SecondaryStateFiles(tmp_path)
            assert store_now.load(volume) in ((new,) if done == steps else (old, new))
            store_now.save(new)
            assert store_now.load(volume) == new


@pytest.mark.parametrize("death", [SystemExit, OSError])
@pytest.mark.parametrize("call", range(6))
def test_an_end_or_an_error_at_any_call_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, death: type[BaseException]
) -> None:
    store = SecondaryStateFiles(tmp_path)
    store.save(OLD)
    calls = 0
    with monkeypatch.context() as patch:
        for module, name in ((os, "fsync"), (spare_files, "exchange_names")):

            def counted(*args: object, real: object = getattr(module, name)) -> object:
                nonlocal calls
                result: object = None
                for moment in ("before", "after"):
                    if calls == call:
                        calls += 1
                        raise death(28, moment)
                    calls += 1
                    if moment == "before":
                        result = real(*args)  # type: ignore[operator]
                return result

            patch.setattr(module, name, counted)
        with pytest.raises((SystemExit, DeviceFailed)):
            store.save(NEW)
    renamed = call >= 3
    assert (tmp_path / ".mirrorlog-spares-0").exists() == (death is SystemExit)
    assert SecondaryStateFiles(tmp_path).load("vol1") == (NEW if renamed else OLD)
    store.save(NEW)
    names = {path.name for path in tmp_path.iterdir()}
    assert names - {".mirrorlog-spares-0"} == {"vol1.json", ".mirrorlog-spares"}


def test_opening_makes_durable_what_a_dead_predecessor_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SecondaryStateFiles(tmp_path).save(OLD)
    disk = Disk(tmp_path, monkeypatch)
    SecondaryStateFiles(tmp_path)
    assert ("fsync", tmp_path.name) in disk.steps


def test_a_folder_that_vanished_is_not_a_site_that_knows_nothing(tmp_path: Path) -> None:
    store = SecondaryStateFiles(tmp_path / "states")
    (tmp_path / "states").rmdir()
    with pytest.raises(DeviceFailed):
        store.load("vol1")
