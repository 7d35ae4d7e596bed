"""The commands on a repository of backups: their messages, their JSON and their exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import run_main
from plain_images import BackupWorld
from qcow2_points import SmallQcow2

from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.cli.commands import backup_run, backup_volume
from mirrorlog.cli.support import backup_options
from mirrorlog.cli.support.backup_options import GivenBackup
from mirrorlog.cli.support.byte_progress import ByteProgress
from mirrorlog.cli.support.output import Output
from mirrorlog.consumers.backup.taking.rounds import run_rounds
from mirrorlog.consumers.backup.taking.taking import PointRefused, TakenPoint
from mirrorlog.errors import BadUse, KafkaFailed
from mirrorlog.simulation.manual_clock import ManualClock


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    """A repository with four points, an hour apart."""
    world = BackupWorld(FolderBackups(tmp_path / "repo"), images=SmallQcow2())
    world.write(*range(world.blocks))
    world.backup()
    for block in (1, 9, 17):  # each in a unit of its own
        world.write(block)
        world.backup(seconds=3600)
    return world


def ask(world: BackupWorld, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run a command under --json on the repository; return its code, last object and stderr."""
    code, out, err = run_main(["--json", "backup", *arguments, "--repo", world.store.where])
    return code, json.loads(out.splitlines()[-1]), err


def image_of(world: BackupWorld, point: str) -> Path:
    path = world.store.local_path(f"volumes/{world.volume}/{point}.qcow2")
    assert path is not None
    return path


def test_points_are_listed(world: BackupWorld) -> None:
    code, listed, _ = ask(world, "list")
    names = list(world.points)
    assert code == 0
    assert listed["repository_id"] == world.repository.repository_id
    assert [point["point"] for point in listed["points"]] == names
    last = listed["points"][-1]
    assert last["chain"] == names[::-1]
    assert {
        "volume": "vol1",
        "is_consistent": True,
        "source": "site east",
        "base": names[2],
        "data_bytes": 4096,
        "rung": "changed",
    }.items() <= last.items()
    code, out, _ = run_main(["backup", "list", "vol1", "--repo", world.store.where])
    assert code == 0
    assert out.splitlines()[0].split()[:2] == ["VOLUME", "POINT"]
    assert [line.split()[1] for line in out.splitlines()[1:]] == names


def test_a_point_that_cannot_be_read_is_named_beside_the_others(world: BackupWorld) -> None:
    names = list(world.points)
    manifest = image_of(world, names[1]).with_suffix(".1.json")
    manifest.write_bytes(manifest.read_bytes()[:-10])
    code, listed, err = ask(world, "list", "vol1")
    assert code == 0
    assert [point["point"] for point in listed["points"]] == [names[0], *names[2:]]
    assert [point["point"] for point in listed["unreadable"]] == [names[1]]
    assert names[1] in err


def test_a_volume_of_which_no_manifest_can_be_read_is_checked(world: BackupWorld) -> None:
    for manifest in image_of(world, "x").parent.glob("*.json"):
        manifest.write_bytes(b"{}")
    code, error, err = ask(world, "check")
    assert (code, error["code"]) == (1, "StateDamaged")
    assert all(name in err for name in world.points)


def test_a_sound_repository_is_checked(world: BackupWorld) -> None:
    for options in ([], ["--read-data"]):
        code, checked, _ = ask(world, "check", *options)
        (volume,) = checked["volumes"]
        assert code == 0
        assert (volume["sound"], volume["damages"]) == (list(world.points), [])
        assert checked["read_data"] == bool(options)


def test_damage_is_named_with_the_points_that_it_affects(world: BackupWorld) -> None:
    names = list(world.points)
    path = image_of(world, names[2])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert ask(world, "check")[0] == 0  # the data isn't read
    code, out, err = run_main(
        ["--json", "backup", "check", "vol1", "--repo", world.store.where, "--read-data"]
    )
    checked, error = map(json.loads, out.splitlines())
    (volume,) = checked["volumes"]
    assert (code, error["code"]) == (1, "StateDamaged")
    assert volume["affected"] == names[2:]
    assert volume["sound"] == names[:2]
    assert all(name in error["what"] for name in names[2:])
    assert f"point {names[2]}: data, " in err


def test_a_prune_says_first_what_it_would_do(world: BackupWorld) -> None:
    names = list(world.points)
    code, planned, _ = ask(world, "prune", "vol1", "--keep-last", "1", "--dry-run")
    assert code == 0
    assert [point["point"] for point in planned["points"] if point["is_kept"]] == names[-1:]
    assert (planned["dry_run"], planned["removed"]) == (True, [])
    assert world.visible() == names
    code, done, _ = ask(world, "prune", "vol1", "--keep-last", "1", "--keep-hourly", "2")
    assert code == 0
    assert world.visible() == names[2:]
    assert [point["kept_by"] for point in done["points"]][:2] == [["last", "hourly"], ["hourly"]]
    for name in names[2:]:
        assert world.reads_as(name) == world.points[name]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["prune", "vol1"], "keep no point"),
        (["prune", "vol1", "--keep-last", "-2"], "negative"),
        (["prune", "other", "--keep-last", "1"], "no points of volume other"),
        (["check", "other"], "no points of volume other"),
        (["list", "other"], "no points of volume other"),
        (["diff", "vol1", "newest", "20200101T000000Z-00000000"], "no point"),
        (["diff", "vol1", "newest", "newest", "--format", "xml"], "no format"),
        (["forget", "vol1", "--id", "x"], "one repository"),
    ],
)
def test_bad_use(world: BackupWorld, arguments: list[str], why: str) -> None:
    code, error, _ = ask(world, *arguments)
    assert (code, error["message_type"]) == (2, "error")
    assert why in error["what"]
    assert error["next"]


def test_a_folder_without_a_repository_is_refused(tmp_path: Path) -> None:
    code, out, _ = run_main(["--json", "backup", "list", "--repo", str(tmp_path)])
    assert (code, json.loads(out)["what"]) == (2, "there is no repository of backups")
    assert list(tmp_path.iterdir()) == []


def test_one_thing_is_told_in_the_singular(world: BackupWorld) -> None:
    names = list(world.points)
    rest = ["--repo", world.store.where]
    _, out, _ = run_main(["backup", "drop", "vol1", names[1], "--dry-run", *rest])
    assert f"1 point of vol1 is removed for good: {names[1]}." in out
    code, out, _ = run_main(["backup", "prune", "vol1", "--keep-last", "3", *rest])
    assert (code, out.splitlines()[-1]) == (0, "removed 1 image and merged 1")
    assert run_main(["backup", "prune", "vol1", "--keep-last", "1", *rest])[0] == 0
    assert run_main(["backup", "check", *rest])[1] == "vol1: 1 point is sound\n"
    manifest = next(image_of(world, names[3]).parent.glob(f"{names[3]}.*.json"))
    manifest.write_bytes(b"{}")
    _, _, err = run_main(["backup", "check", *rest])
    assert "the repository is damaged in 1 place;" in err


def test_the_difference_of_two_points(world: BackupWorld) -> None:
    names = list(world.points)
    code, listed, _ = ask(world, "diff", "vol1", names[0], names[2])
    assert code == 0
    changed = [(run["start"], run["length"]) for run in listed["extents"] if run["dirty"]]
    assert changed == [(512, 512), (9 * 512, 512)]
    assert (listed["changed_blocks"], listed["changed_bytes"]) == (2, 1024)
    assert (listed["first"]["point"], listed["second"]["point"]) == (names[0], names[2])
    form = ["--format", "ranges", "--repo", world.store.where]
    code, out, _ = run_main(["backup", "diff", "vol1", names[0], "newest", *form])
    assert (code, out) == (0, "512-1023\n4608-5119\n8704-9215\n")


def test_points_are_dropped_after_a_question(world: BackupWorld) -> None:
    names = list(world.points)
    code, error, _ = ask(world, "drop", "vol1", names[1])
    assert (code, "--yes" in error["next"]) == (2, True)  # nobody is there to ask
    code, planned, _ = ask(world, "drop", "vol1", names[1], "--dry-run")
    assert (code, planned["dry_run"], planned["removed"]) == (0, True, [names[1]])
    assert world.visible() == names
    assert ask(world, "drop", "vol1", names[1], "--yes")[0] == 0
    kept = [names[0], *names[2:]]
    assert world.visible() == kept
    assert all(world.reads_as(name) == world.points[name] for name in kept)
    manifest = next(image_of(world, names[2]).parent.glob(f"{names[2]}.*.json"))
    manifest.write_bytes(b"{}")
    code, error, _ = ask(world, "drop", "vol1", names[2], "--yes")
    assert (code, names[3] in error["what"]) == (2, True)
    code, done, _ = ask(world, "drop", "vol1", names[2], "--with-dependents", "--yes")
    assert (code, done["removed"]) == (0, [names[3], names[2]])
    assert world.visible() == [names[0]]
    assert ask(world, "check", "--read-data")[0] == 0


GIVEN = GivenBackup(
    to="/backups",
    from_site=None,
    site_dir=None,
    copy_dir=None,
    before=None,
    after=None,
    hook_timeout_s=30,
    layout="subclusters",
    compress=False,
    allow_inconsistent=False,
    wait="60s",
    every_s=None,
)


@pytest.mark.parametrize(
    "options",
    [
        "--from-site berlin",
        "--dir /site",
        "--compress",
        "--hook-timeout-s 0",
        "--from-site berlin --dir /site --primary vol1=nbd://h/x",
        "--secondary vol1=/x",
        "--primary vol1",
    ],
)
@pytest.mark.parametrize("command", ["vol1", "run vol1 --every 1h"])
def test_options_that_contradict_each_other_are_refused_before_kafka_is_asked(
    options: str, command: str
) -> None:
    code, out, err = run_main(
        ["--json", "backup", *command.split(), "--to", "/none", *options.split()]
    )
    error = json.loads(out)
    assert (code, error["code"]) == (2, "BadUse"), err
    assert error["next"] or error["where"]


def test_a_volume_with_the_name_of_a_command_needs_the_long_form(
    monkeypatch: pytest.MonkeyPatch, world: BackupWorld
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(backup_volume, "find_volume", lambda _, name: asked.append(name))
    monkeypatch.setattr(
        backup_volume, "take_and_print", lambda call, given, options, name: asked.append(name)
    )
    assert run_main(["backup", "volume", "list", "--to", "/none"])[0] == 0
    assert run_main(["backup", "vol1", "--to", "/none"])[0] == 0
    assert asked == ["list", "list", "vol1", "vol1"]


def test_a_point_is_printed_with_its_facts(
    monkeypatch: pytest.MonkeyPatch, world: BackupWorld
) -> None:
    record = world.repository.catalog("vol1").points[-1]
    taken = TakenPoint(manifest=record.manifest, frozen_s=0.25, unregistered="Kafka is away.")
    monkeypatch.setattr(backup_volume, "find_volume", lambda *_: None)
    monkeypatch.setattr(backup_options, "back_up", lambda *_: taken)
    code, out, err = run_main(["--json", "backup", "vol1", "--to", "/backups"])
    point, warning = map(json.loads, out.splitlines())
    assert code == 0
    assert {
        "message_type": "point",
        "point": record.point,
        "repository": "/backups",
        "frozen_s": 0.25,
        "is_consistent": True,
    }.items() <= point.items()
    assert warning["message_type"] == "warning"
    assert f"point {record.point}, consistent as of" in err


def test_a_refused_point_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> TakenPoint:
        raise PointRefused("it isn't proved", where="v", next="Try again.")

    monkeypatch.setattr(backup_volume, "find_volume", lambda *_: None)
    monkeypatch.setattr(backup_options, "back_up", refuse)
    code, out, _ = run_main(["--json", "backup", "vol1", "--to", "/backups"])
    assert (code, json.loads(out)["code"]) == (1, "PointRefused")


def test_rounds_survive_the_errors_of_one_volume_and_end_with_a_signal(
    monkeypatch: pytest.MonkeyPatch, world: BackupWorld
) -> None:
    record = world.repository.catalog("vol1").points[-1]
    clock = ManualClock()
    backed_up: list[tuple[str, float]] = []

    def back_up(_: object, request: Any, *__: object) -> TakenPoint:
        backed_up.append((request.volume, clock.now_s))
        if request.volume == "broken":
            raise KafkaFailed("the broker is away", next="Wait.")
        return TakenPoint(manifest=record.manifest, frozen_s=None, unregistered=None)

    def rest(wait_s: float) -> None:
        clock.now_s += wait_s
        if len(backed_up) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(backup_run, "SystemClock", lambda: clock)
    monkeypatch.setattr(backup_options, "back_up", back_up)
    monkeypatch.setattr(backup_run, "load_volumes", lambda _: {"broken": None, "vol1": None})
    monkeypatch.setattr("time.sleep", rest)
    options = ["--to", world.store.where, "--every", "1h", "--keep-last", "2"]
    code, out, err = run_main(["--json", "backup", "run", "broken", "vol1", *options])
    messages = [json.loads(line) for line in out.splitlines()]
    assert code == 0, err
    assert backed_up == [(name, at_s) for at_s in (0, 3600, 7200) for name in ("broken", "vol1")]
    kinds = [message["message_type"] for message in messages]
    assert kinds == ["ready", *["warning", "point", "pruned"] * 3]
    assert messages[1]["volume"] == "broken"
    assert world.visible() == list(world.points)[2:]


def test_an_unknown_volume_ends_rounds_before_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_run, "load_volumes", lambda _: {})
    code, out, _ = run_main(["--json", "backup", "run", "v", "--to", "/x", "--every", "1h"])
    assert (code, json.loads(out)["code"]) == (2, "UnknownVolume")
    code, out, _ = run_main(["--json", "backup", "run", "v", "--to", "/x", "--every", "0.5s"])
    assert (code, json.loads(out)["where"]) == (2, "--every 0.5s")


def test_a_round_that_takes_longer_is_followed_at_once() -> None:
    clock, waits = ManualClock(), list[float]()

    def back_up(_: str) -> None:
        clock.now_s += 7

    def rest(wait_s: float) -> None:
        waits.append(wait_s)
        if len(waits) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rounds(
            ["a", "b"],
            back_up,
            every_s=10,
            clock=clock,
            rest=rest,
            on_error=lambda *_: None,
        )
    assert waits == [0, 0]


def test_requests_and_options() -> None:
    request = GIVEN.as_request("vol1")
    assert (request.volume, request.is_full, request.allows_inconsistent) == ("vol1", False, False)
    assert GIVEN.as_options().site is None
    with pytest.raises(BadUse):
        replace(GIVEN, from_site="a").as_options()


def test_progress_is_told_in_messages_and_never_above_the_total(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = ManualClock()
    with ByteProgress(Output(json=True), clock.monotonic_s, "read") as progress:
        progress.begin(100)
        for _ in range(3):
            clock.now_s += 2
            progress.advance(40)
    messages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [message["done_bytes"] for message in messages] == [40, 80, 100]
    assert messages[0]["rate_bytes_s"] == 20
    assert (messages[0]["eta_s"], messages[-1]["eta_s"]) == (3, 0)
    with ByteProgress(Output(), clock.monotonic_s, "read") as progress:
        progress.begin(1 << 20)
        clock.now_s += 16
        progress.advance(1 << 19)
    assert capsys.readouterr().err == "512.0 KiB of 1.0 MiB read, 32.0 KiB/s, 16 s left\n"
