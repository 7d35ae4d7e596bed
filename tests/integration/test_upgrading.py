"""A rolling upgrade from the release before, one role after another, while a host writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from upgraded_parts import Part, Release, Writer, has_commit, install_release

from mirrorlog.changed.ask import changed
from mirrorlog.cli.demo.run import Run

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LANDED = {
    "before backups": "8b383a635760fd1e4ffad193bf4250e58c927a96",
    "last landed": "690fe5b1c6e5a7b25039e1c02ee8e62b9f67866a",
}
"""Commits of releases from which one upgrades."""
ORDERS = {"as documented": ("node", "site", "host"), "reversed": ("host", "site", "node")}
BLOCKS = 16_384
SIZE_BYTES = BLOCKS * 4096


@pytest.fixture(scope="module", params=LANDED)
def earlier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which an earlier release is installed."""
    commit = LANDED[request.param]
    if not has_commit(commit):
        pytest.skip("this clone has no history")
    return install_release(commit, tmp_path_factory.mktemp("release"))


class Upgraded:
    """A volume with a node, a site and a host, all of one release at first."""

    def __init__(self, run: Run, earlier: Path, folder: Path) -> None:
        self.settings = settings = run.settings
        given = {
            "MIRRORLOG_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "MIRRORLOG_TOPIC_PREFIX": settings.topic_prefix,
            "MIRRORLOG_STATE_DIR": str(folder / "state"),
            "MIRRORLOG_NODE_NAME": "node-1",
            "MIRRORLOG_NODE_TIERS_S": "[2, 6, 18]",
        }
        self.folder, self.old, self.new = folder, Release(earlier, given), Release(None, given)
        assert self.old.code_folder() == earlier / "mirrorlog"
        assert self.new.code_folder() != self.old.code_folder()
        self.parts = {
            "node": Part("node", ["node"], folder),
            "site": Part("site", ["site", "run", "s", "--dir", str(folder / "s")], folder),
            "host": Writer("vol1", folder, BLOCKS),
        }

    @property
    def writer(self) -> Writer:
        writer = self.parts["host"]
        assert isinstance(writer, Writer)
        return writer

    def start(self) -> None:
        """Create the volume, and start all parts, as the earlier release does."""
        primary = str(self.folder / "vol1.img")
        options = ["--size", str(SIZE_BYTES), "--primary", primary, "--create-primary"]
        self.old.run("volume", "create", "vol1", *options)
        for part in self.parts.values():
            part.start(self.old)
        self.writer.wait_for_writes(40)

    def check(self, release: Release) -> None:
        """Check that all parts live, and that the secondary reaches all that is written by now."""
        self.writer.wait_for_writes(40)
        for part in self.parts.values():
            part.check()
        with self.writer.resting():
            release.run("site", "wait", "vol1")

    def finish(self) -> None:
        """Stop the host; check that nothing is lost, and that the new release finds all well."""
        self.check(self.new)
        self.writer.stop()
        self.new.run("site", "wait", "vol1")
        status = self.new.run("status")
        assert {row["health"] for row in (*status["volumes"], *status["sites"])} == {"OK"}, status
        assert status["partitions_without_worker"] == []
        primary = (self.folder / "vol1.img").read_bytes()
        assert (self.folder / "s" / "vol1.img").read_bytes() == primary
        writes = dict(self.writer.writes())
        lost = [
            block
            for block, version in writes.items()
            if primary[block * 4096 : block * 4096 + 8] != version.to_bytes(8, "little")
        ]
        assert lost == []
        self.new.run("log", "rebuild", "--check", "--all")
        named = {
            block
            for extent in changed("vol1", settings=self.settings)
            for block in range(extent.start // 4096, -(-(extent.start + extent.length) // 4096))
        }
        assert set(writes) - named == set()

    def stop(self) -> None:
        """End what runs."""
        for part in self.parts.values():
            part.kill()


@pytest.fixture
def upgraded(world: Run, earlier: Path, tmp_path: Path) -> Iterator[Upgraded]:
    parts = Upgraded(world, earlier, tmp_path)
    yield parts
    parts.stop()


@pytest.mark.parametrize("order", ORDERS)
def test_roles_are_upgraded_one_after_another_while_a_host_writes(
    upgraded: Upgraded, order: str
) -> None:
    upgraded.start()
    upgraded.check(upgraded.old)
    for name in ORDERS[order]:
        upgraded.parts[name].upgrade(upgraded.new)
        upgraded.check(upgraded.new)
    upgraded.finish()
