"""`mirrorlog volume`, from the creation of a volume to its end, with a node and a site running."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from deadlines import DEADLINE_S
from running import run_cli

from mirrorlog.cli.demo.proof import ProgressFollower
from mirrorlog.cli.demo.run import Run
from mirrorlog.domain.site_progress import SiteProgress, SiteState

pytestmark = pytest.mark.integration

MIB = 1 << 20


class Shell:
    """The command line on a run's settings."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.text = ""
        """What the last command printed for people."""

    def __call__(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run a command, which must end with `code`; return the last JSON object that it prints."""
        done = run_cli(self.run.settings, *arguments)
        assert done.returncode == code, done.stderr
        self.text = done.stderr
        return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]

    def wait(self, state: SiteState, position: int) -> SiteProgress:
        """Wait until the site reports `state` and has read the log through `position`."""
        follower = ProgressFollower(self.run.settings)
        until = time.monotonic() + DEADLINE_S
        try:
            while True:
                report = follower.reports.get(("site-a", "v"))
                if (
                    report
                    and report.state is state
                    and report.watermark is not None
                    and report.watermark >= position
                ):
                    return report
                assert time.monotonic() < until, report
                follower.poll(0.2)
                self.run.check()
        finally:
            follower.close()


def identical(run: Run, size_bytes: int) -> bool:
    """Return whether primary and secondary are of this size and hold the same bytes."""
    primary, secondary = (run.folder / place / "v.img" for place in ("primary", "site-a"))
    return primary.stat().st_size == secondary.stat().st_size == size_bytes and same(
        primary, secondary
    )


def same(one: Path, two: Path) -> bool:
    return one.read_bytes() == two.read_bytes()


def overwrite(run: Run, offset: int, data: bytes) -> None:
    """Write to the primary behind the host's back: nothing is tracked."""
    with (run.folder / "primary" / "v.img").open("r+b") as primary:
        primary.seek(offset)
        primary.write(data)


def test_a_volume_from_its_creation_to_its_end(run: Run) -> None:
    shell = Shell(run)
    run.start_node()
    run.wait_ready("node")
    made = shell(
        "volume",
        "create",
        "v",
        "--size",
        "1MiB",
        "--keep",
        "day=400d",
        "--secondary",
        "b=/b.img",
        "--secondary",
        f"site-a={run.folder / 'site-a' / 'v.img'}",
        "--shared",
    )
    assert (made["size_bytes"], made["state"], made["keep_s"]) == (
        MIB,
        "ACTIVE",
        {"day": 400 * 86_400},
    )
    assert (made["secondaries"], made["shared"], made["initially_zeroed"]) == (
        {"b": "/b.img", "site-a": str(run.folder / "site-a" / "v.img")},
        True,
        True,
    )
    assert [volume["volume"] for volume in shell("volume", "list")["volumes"]] == ["v"]
    for wrong in (
        ("create", "v", "--size", "1MiB"),
        ("create", "w", "--size", "1MiB", "--block-size", "5000"),
        ("create", "w", "--size", "1MiB", "--keep", "week=3d"),
        ("create", "w", "--size", "2MiB", "--primary", str(run.folder / "primary" / "v.img")),
        ("show", "w"),
        ("resize", "v", "4KiB"),
        ("retire", "v"),
        ("renew", "v"),
    ):
        assert shell("volume", *wrong, code=2)["message_type"] == "error"

    run.start_site("site-a")
    run.wait_ready("site-a")
    assert shell("command", "send", "v", "--write", "1MiB+1", code=2)["next"]
    overwrite(run, 0, b"first")
    shell.wait(SiteState.CONSISTENT, shell("command", "send", "v", "--write", "0+5")["position"])
    assert identical(run, MIB)

    grown = shell("volume", "resize", "v", "2MiB")
    assert (grown["size_bytes"], grown["described_position"]) == (
        2 * MIB,
        grown["earlier_sizes"][0]["before_position"],
    )
    report = shell.wait(SiteState.CONSISTENT, grown["described_position"])
    assert report.bytes_copied == 4096 + MIB  # all of what the volume gained is dirty
    assert identical(run, 2 * MIB)
    assert (
        shell("volume", "resize", "v", "2MiB")["described_position"] == grown["described_position"]
    )
    overwrite(run, 2 * MIB - 4, b"last")
    shell.wait(
        SiteState.CONSISTENT,
        shell("command", "send", "v", "--write", f"{2 * MIB - 4}+4")["position"],
    )
    assert identical(run, 2 * MIB)

    overwrite(run, MIB, b"untracked")
    assert "copies again" in shell("volume", "renew", "v", "--dry-run")["cost"]
    assert shell("volume", "show", "v")["generation"] == made["generation"]
    renewed = shell("volume", "renew", "v", "--yes")
    assert renewed["generation"] != made["generation"]
    report = shell.wait(SiteState.CONSISTENT, renewed["described_position"])
    assert (report.generation, report.rung) == (renewed["generation"], "allocated")
    assert identical(run, 2 * MIB)
    assert shell("log", "rebuild", "--check", "--all")["ok"] is True

    retired = shell("volume", "retire", "v", "--yes")
    assert retired["state"] == "RETIRED"
    assert f"is retired at position {retired['described_position']}" in shell.text
    assert shell("volume", "retire", "v", "--yes") == retired
    assert f"was retired before, at position {retired['described_position']}\n" in shell.text
    status = shell("command", "send", "v", "--write", "0+1")
    assert (status["code"], "was retired" in status["text"]) == ("ACCEPTED", True)
    report = shell.wait(SiteState.RETIRED, status["position"])
    assert report.consistent_position is not None
    assert report.consistent_position < status["position"]
    assert shell("volume", "resize", "v", "3MiB", code=2)["what"] == "the volume is retired"
