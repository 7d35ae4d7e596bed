"""The stages of a run of the demo, in order, and the result that `--json` prints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from mirrorlog.cli.demo.plan import DemoPlan
from mirrorlog.cli.demo.proof import ProgressFollower, differing_volumes, dirty_blocks_of_log
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.demo.view import DemoView
from mirrorlog.cli.support.lookup import load_volumes
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import PartFailed
from mirrorlog.processes.child_processes import ChildMessage

_REPLAY_S: Final = 3600.0
_STALL_S: Final = 120.0
_LOG_S: Final = 120.0
_LOOK_S: Final = 0.1
"""The pause between two looks at the reports. A look passes all volumes, on the cores that the
sites need."""


def play(run: Run, plan: DemoPlan, view: DemoView) -> dict[str, Any]:
    """Play all stages. Return the object that `--json` prints.

    1. Kafka, the node and all sites but the last are started.
    2. The host replays the recording.
    3. The tracking log is complete through the host's last positions.
    4. The last site starts. Every site proves every volume consistent at those positions.
    5. Every secondary is compared with its primary.
    """
    started_s = time.monotonic()
    with view.stage("Kafka", None) as bar:
        run.start_broker(fetched=bar.fetched)
    with view.stage("node and sites", None):
        run.start_node()
        early = plan.sites[:-1] or plan.sites
        for site in early:
            run.start_site(site)
        run.wait_ready("node", *early)
    host = _replay(run, plan, view)
    volumes = load_volumes(run.settings)
    positions = {volume: host["last_positions"].get(volume, -1) for volume in volumes}
    with view.stage("tracking log", None):
        dirty_blocks = sum(dirty_blocks_of_log(run.settings, volumes, positions, _LOG_S).values())
    for site in plan.sites:
        if site not in early:
            run.start_site(site)
    follower = ProgressFollower(run.settings)
    _follow(run, plan, view, follower, positions)
    elapsed_s = time.monotonic() - started_s
    identical = {site: _compare(run, plan, view, volumes, site) for site in plan.sites}
    rows = [_site_row(site, follower, identical=identical[site]) for site in plan.sites]
    follower.close()
    return {
        "trace": plan.trace.name,
        "writes": host["writes"],
        "bytes_written": host["bytes_written"],
        "extents": host["extents"],
        "commands": host["commands"],
        "block_size": plan.block_size,
        "dirty_blocks": dirty_blocks,
        "dirty_blocks_counted": plan.dirty_blocks,
        "volumes": len(volumes),
        "elapsed_s": round(elapsed_s, 3),
        "sites": rows,
        "ok": all(identical.values()) and dirty_blocks == plan.dirty_blocks,
    }


def _replay(run: Run, plan: DemoPlan, view: DemoView) -> dict[str, Any]:
    """Run the host to its end; return the fields of its `result` message."""
    with view.stage("host writes", plan.writes) as bar:

        def on_message(message: ChildMessage) -> None:
            if message.part == "host" and message.message_type == "progress":
                bar.reach(message.fields["writes"])

        run.start_host(plan.trace.path, plan.trace.format, "--block-size", str(plan.block_size))
        result = run.wait_for(
            lambda message: message.part == "host" and message.message_type == "result",
            _REPLAY_S,
            on_message,
        )
        bar.reach(plan.writes)
    return result


def _follow(
    run: Run,
    plan: DemoPlan,
    view: DemoView,
    follower: ProgressFollower,
    positions: Mapping[str, int],
) -> None:
    """Wait until each site has proved every volume consistent at `positions` (by volume).

    Raise PartFailed if no site reports progress for _STALL_S.
    """
    moved_at_s, last_total = time.monotonic(), -1
    for site in plan.sites:
        with view.stage(f"{site} restores", len(positions)) as bar:
            while unproved := follower.unproved(site, positions):
                follower.poll(0.2)
                run.check()
                bar.reach(len(positions) - len(unproved))
                total = sum(
                    report.bytes_copied + (report.watermark or 0)
                    for report in follower.reports.values()
                )
                if total != last_total:
                    moved_at_s, last_total = time.monotonic(), total
                elif time.monotonic() - moved_at_s > _STALL_S:
                    report = follower.reports.get((site, unproved[0]))
                    raise PartFailed(
                        f"{site} makes no progress", where=f"volume {unproved[0]}: {report}"
                    )
                time.sleep(_LOOK_S)
            bar.reach(len(positions))


def _compare(
    run: Run, plan: DemoPlan, view: DemoView, volumes: Mapping[str, Volume], site: str
) -> bool:
    """Return whether every secondary of the site equals its primary byte for byte."""
    files = {
        name: (run.folder / "primary" / f"{name}.img", run.folder / site / f"{name}.img")
        for name in volumes
    }
    total_bytes = sum(volume.size_bytes for volume in volumes.values())
    with view.stage(f"{site} compared", total_bytes) as bar:
        return not differing_volumes(files, plan.block_size, bar.advance)


def _site_row(site: str, follower: ProgressFollower, *, identical: bool) -> dict[str, Any]:
    """Return the site's entry in the result. lag_s is None if one of the volumes has none."""
    reports = follower.reports_of(site)
    states = {report.state.value for report in reports} or {SiteState.UNKNOWN.value}
    lags_s = [report.lag_s for report in reports]
    known_s = [lag_s for lag_s in lags_s if lag_s is not None]
    return {
        "site": site,
        "identical": identical,
        "blocks_copied": sum(report.blocks_copied for report in reports),
        "bytes_copied": sum(report.bytes_copied for report in reports),
        "lag_s": round(max(known_s), 3) if known_s and known_s == lags_s else None,
        "state": states.pop() if len(states) == 1 else "MIXED",
    }
