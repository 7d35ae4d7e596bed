"""`mirrorlog demo`: the main job, everything in one go.

A host replays a recording of block writes; tracking commands go out as events; the node folds them into the log; sites
read the changed blocks from the primary and end identical to it. Every part is a process of its own.
"""

from __future__ import annotations

import shutil
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mirrorlog.adapters.folders import hold_folder
from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.broker.files import waiting_lock
from mirrorlog.cli.demo.proof import ProgressFollower, differing_volumes, dirty_blocks_of_log
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.demo.view import DemoView
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.lookup import load_volumes
from mirrorlog.domain.volumes import Volume, check_geometry
from mirrorlog.errors import BadUse, DifferenceFound, MirrorlogError, PartFailed
from mirrorlog.processes.child_processes import ChildMessage
from mirrorlog.producers.traces import (
    Trace,
    count_dirty_blocks,
    demo_trace_path,
    open_trace,
    survey,
)
from mirrorlog.settings import Settings
from mirrorlog.units import parse_size

_REPLAY_S: Final = 3600.0
_STALL_S: Final = 120.0
_LOG_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What the demo is to do."""

    trace: Trace
    block_size: int
    sites: list[str]
    writes: int
    bytes_written: int
    dirty_blocks: int


app = typer.Typer()


@app.command()
def demo(
    context: typer.Context,
    trace: Annotated[
        Path | None, typer.Option(help="A recording; without, the demo's own.", metavar="FILE")
    ] = None,
    trace_format: Annotated[
        str, typer.Option("--format", help="auto, vscsi, msr, tencent, blkparse or mirrorlog.")
    ] = "auto",
    sites: Annotated[
        int,
        typer.Option(min=1, max=16, help="Of two or more, the last joins after the host's end."),
    ] = 2,
    block_size: Annotated[
        str, typer.Option("--block-size", help="Granularity of tracking.")
    ] = "4KiB",
    keep: Annotated[
        Path | None, typer.Option(help="Work in this folder and keep it.", metavar="DIR")
    ] = None,
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(
            "--bootstrap-servers", help="Your cluster instead of the demo's.", metavar="HOST:PORT,…"
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line of stdout.")
    ] = False,
) -> None:
    """Run broker, node, host and sites on a real recording, and check every copy."""
    call = invocation(context)
    if json and not call.output.json:
        call = Invocation(
            call.settings, type(call.output)(json=True, quiet=call.output.quiet), call.verbose
        )
    settings = call.settings
    own_broker = bootstrap_servers is None and "bootstrap_servers" not in settings.model_fields_set
    if bootstrap_servers is not None:
        settings = settings.model_copy(update={"bootstrap_servers": bootstrap_servers})
    if not own_broker:
        settings = settings.model_copy(
            update={"topic_prefix": f"{settings.topic_prefix}demo-{uuid.uuid4().hex[:8]}."}
        )
    view = DemoView(call.output)
    plan = make_plan(trace or demo_trace_path(), trace_format, block_size, sites)
    signal.signal(signal.SIGTERM, _interrupt)
    if own_broker and any(
        name.startswith(("security.", "sasl.", "ssl.")) for name in settings.kafka
    ):
        raise BadUse(
            "the demo's own Kafka knows neither TLS nor SASL",
            next="Name your cluster: --bootstrap-servers.",
        )
    with work_folder(keep, settings.state_dir) as folder, view, ExitStack() as stack:
        if not own_broker and keep is None:
            stack.callback(_remove_topics, settings, view)
        result = play(stack.enter_context(Run(folder, settings, own_broker=own_broker)), plan, view)
    view.table(result, keep)
    call.output.print_json(result)
    if not result["ok"]:
        raise DifferenceFound(
            "the run didn't end as it must",
            where=_what_differs(result, plan),
            next="Run it again with --keep DIR and look at what is in DIR.",
        )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def make_plan(path: Path, trace_format: str, block_size_text: str, sites: int) -> DemoPlan:
    """Reads the whole recording before anything is made, so that a broken one leaves nothing behind."""
    block_size = parse_size(block_size_text)
    check_geometry(block_size, block_size)
    trace = open_trace(path, trace_format)
    found = survey(trace)
    dirty = sum(count_dirty_blocks(trace, block_size).values())
    names = [f"site-{chr(ord('a') + number)}" for number in range(sites)]
    return DemoPlan(trace, block_size, names, found.writes, found.bytes_written, dirty)


@contextmanager
def work_folder(keep: Path | None, state_dir: Path) -> Iterator[Path]:
    """Where the run works: the folder to keep, which must be new or empty, or one that goes when the run ends."""
    if keep is not None:
        if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise BadUse("the folder to keep isn't empty", where=str(keep), next="Name a new one.")
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.absolute()
        return
    runs = state_dir / "demo"
    with waiting_lock(runs / "lock"):
        for left in runs.glob("run-*"):
            _remove_unless_held(left)
        folder = runs / f"run-{uuid.uuid4().hex[:8]}"
        hold_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_unless_held(folder: Path) -> None:
    """A run that was killed with -9 left its folder, and nobody holds it any more."""
    try:
        hold_folder(folder)
    except BadUse:
        return
    shutil.rmtree(folder, ignore_errors=True)


def play(run: Run, plan: DemoPlan, view: DemoView) -> dict[str, Any]:
    """The run, stage by stage; the object that --json prints."""
    started_s = time.monotonic()
    with view.stage("Kafka", None) as bar:
        run.start_broker(fetched=bar.fetched)
    with view.stage("node and sites", None):
        run.start_node()
        early = plan.sites[:-1] or plan.sites
        for site in early:
            run.start_site(site)
        run.wait_ready("node", *early)
    host = replay(run, plan, view)
    volumes = load_volumes(run.settings)
    positions = {volume: host["last_positions"].get(volume, -1) for volume in volumes}
    with view.stage("tracking log", None):
        dirty = dirty_blocks_of_log(run.settings, volumes, positions, _LOG_S)
    for site in plan.sites:
        if site not in early:
            run.start_site(site)
    follower = ProgressFollower(run.settings)
    follow(run, plan, view, follower, positions)
    elapsed_s = time.monotonic() - started_s
    identical = {site: compare(run, plan, view, volumes, site) for site in plan.sites}
    rows = [_site_row(site, follower, identical[site]) for site in plan.sites]
    follower.close()
    total = sum(dirty.values())
    return {
        "trace": plan.trace.name,
        "writes": host["writes"],
        "bytes_written": host["bytes_written"],
        "extents": host["extents"],
        "commands": host["commands"],
        "block_size": plan.block_size,
        "dirty_blocks": total,
        "dirty_blocks_counted": plan.dirty_blocks,
        "volumes": len(volumes),
        "elapsed_s": round(elapsed_s, 3),
        "sites": rows,
        "ok": all(identical.values()) and total == plan.dirty_blocks,
    }


def replay(run: Run, plan: DemoPlan, view: DemoView) -> dict[str, Any]:
    """The host's stage: its result."""
    with view.stage("host writes", plan.writes) as bar:

        def heard(message: ChildMessage) -> None:
            if message.part == "host" and message.message_type == "progress":
                bar.reach(message.fields["writes"])

        run.start_host(plan.trace.path, plan.trace.format, "--block-size", str(plan.block_size))
        result = run.wait_for(
            lambda m: m.part == "host" and m.message_type == "result", _REPLAY_S, heard
        )
        bar.reach(plan.writes)
    return result


def follow(
    run: Run,
    plan: DemoPlan,
    view: DemoView,
    follower: ProgressFollower,
    positions: Mapping[str, int],
) -> None:
    """The sites' stages: until each has proved every volume consistent at the host's last position.

    PartFailed where nothing moves any more.
    """
    moved_at_s, before = time.monotonic(), -1
    for site in plan.sites:
        with view.stage(f"{site} restores", len(positions)) as bar:
            while waiting := follower.unproved(site, positions):
                follower.poll(0.2)
                run.check()
                bar.reach(len(positions) - len(waiting))
                now = sum(
                    report.bytes_copied + (report.watermark or 0)
                    for report in follower.reports.values()
                )
                if now != before:
                    moved_at_s, before = time.monotonic(), now
                elif time.monotonic() - moved_at_s > _STALL_S:
                    report = follower.reports.get((site, waiting[0]))
                    raise PartFailed(
                        f"{site} makes no progress", where=f"volume {waiting[0]}: {report}"
                    )
            bar.reach(len(positions))


def compare(
    run: Run, plan: DemoPlan, view: DemoView, volumes: Mapping[str, Volume], site: str
) -> bool:
    """Whether every secondary of the site equals its primary byte for byte."""
    pairs = {
        v: (run.folder / "primary" / f"{v}.img", run.folder / site / f"{v}.img") for v in volumes
    }
    with view.stage(
        f"{site} compared", sum(volume.size_bytes for volume in volumes.values())
    ) as bar:
        return not differing_volumes(pairs, plan.block_size, bar.advance)


def _site_row(site: str, follower: ProgressFollower, identical: bool) -> dict[str, Any]:
    reports = follower.reports_of(site)
    states = {report.state.value for report in reports}
    return {
        "site": site,
        "identical": identical,
        "blocks_copied": sum(report.blocks_copied for report in reports),
        "bytes_copied": sum(report.bytes_copied for report in reports),
        "lag_s": round(max((report.lag_s for report in reports), default=0.0), 3),
        "state": states.pop() if len(states) == 1 else "MIXED",
    }


def _what_differs(result: Mapping[str, Any], plan: DemoPlan) -> str:
    found = [f"{row['site']} isn't identical" for row in result["sites"] if not row["identical"]]
    if result["dirty_blocks"] != plan.dirty_blocks:
        found.append(
            f"the log names {result['dirty_blocks']} blocks, the trace {plan.dirty_blocks}"
        )
    return "; ".join(found)


def _remove_topics(settings: Settings, view: DemoView) -> None:
    """Also after a failure, which is the one to hear of: a cluster that doesn't answer now didn't answer then."""
    names: set[str] = set()
    try:
        admin = KafkaAdmin(settings.kafka_client(), patience_s=2.0)
        names = admin.names(settings.topic_prefix)
        admin.delete(sorted(names))
        admin.close()
    except MirrorlogError as error:
        if names:
            view.output.print_text(f"the demo's topics couldn't be removed: {error}")
