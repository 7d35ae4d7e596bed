"""An archive in a real S3 server, over a line that breaks, with two archivers at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from archiving import ArchiveWorld
from command_line import run_main
from s3_server import SECRET, BreakingLine, options, s3_server

from mirrorlog.adapters.archive_bucket import open_bucket
from mirrorlog.archive.archive import Archive
from mirrorlog.consumers.archive.verify import verify_archive
from mirrorlog.errors import ArchiveFailed

pytestmark = [pytest.mark.integration, pytest.mark.slow]
pytest.importorskip("obstore")
pytest.importorskip("pyarrow")

_ADDRESS = "s3://bucket/some/prefix"


def _fill(world: ArchiveWorld, random: Random) -> None:
    for _ in range(random.randrange(5, 25)):
        world.clock.now_s += 1000
        world.write(f"v{random.randrange(3)}", [(random.randrange(1 << 20), 512)] * 40)
    world.record()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> object:
    with s3_server(tmp_path_factory.mktemp("s3")) as started:
        yield started


def test_the_server_creates_a_name_once(port: int) -> None:
    bucket = open_bucket(_ADDRESS, options(port))
    bucket.check()
    for number in range(50):
        with ThreadPoolExecutor(8) as pool:
            won = pool.map(
                lambda byte: bucket.create(f"raced/{number}", bytes([byte]) * 70_000),  # noqa: B023
                range(8),
            )
            assert sum(won) == 1


def test_an_s3_that_fails_half_way_loses_nothing_and_has_nothing_twice(port: int) -> None:
    random, world = Random(5), ArchiveWorld()
    line = BreakingLine(port, random)
    failed = 0

    def archive_once() -> int:
        try:
            return (
                world.archiver(range_bytes=random.choice((3000, 9000))).run_partition(0).lost_races
            )
        except ArchiveFailed as error:
            assert SECRET not in str(error)
            return -1

    world.store = open_bucket(f"{_ADDRESS}/cut", options(line.port))  # type: ignore[assignment]
    lost = 0
    for round_number in range(8):
        _fill(world, random)
        line.cut_requests, line.cut_answers = random.choice(((0.9, 0.1), (0.1, 0.9), (0.3, 0.3)))
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(lambda _: archive_once(), range(2)))
        failed += outcomes.count(-1)
        lost += sum(max(outcome, 0) for outcome in outcomes)
        if round_number % 2:
            line.cut_requests = line.cut_answers = 0.0
            archive_once()
    line.close()
    assert line.cuts > 20
    world.store = open_bucket(f"{_ADDRESS}/cut", options(port))  # type: ignore[assignment]
    world.archiver().run_partition(0)
    assert world.in_archive() == world.in_topic()
    (checked,) = verify_archive(Archive(world.store))
    assert checked.commands == len(world.in_topic())


def test_the_command_line_takes_credentials_from_a_file_and_shows_none(
    port: int, tmp_path: Path
) -> None:
    world = ArchiveWorld()
    _fill(world, Random(6))
    world.store = open_bucket(f"{_ADDRESS}/cli", options(port))  # type: ignore[assignment]
    world.archiver().run_partition(0)
    credentials = tmp_path / "credentials"
    config = tmp_path / "mirrorlog.toml"
    config.write_text(
        f'archive = "{_ADDRESS}/cli"\narchive_s3_credentials = "{credentials}"\n'
        f'archive_s3 = {{ endpoint = "http://127.0.0.1:{port}", region = "us-east-1" }}\n'
    )
    for secret, expected in ((SECRET, 0), ("anothersecret99", 1)):
        credentials.write_text(
            f"[default]\naws_access_key_id = testkey\naws_secret_access_key = {secret}\n"
        )
        code, out, err = run_main(["archive", "verify", "-c", str(config), "--json"])
        assert code == expected, err
        assert secret not in out + err
        if not code:
            assert json.loads(out)["partitions"][0]["commands"] == len(world.in_topic())
    credentials.write_text(f"no section {SECRET}\n")
    code, out, err = run_main(["archive", "verify", "-c", str(config), "--json"])
    assert code == 2
    assert SECRET not in out + err
