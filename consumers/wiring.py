"""The one place that puts a site together: settings become ports, and the ports become a site."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final, TypeAlias

from mirrorlog.adapters.folders import lock_folder
from mirrorlog.adapters.metrics_server import serving_metrics
from mirrorlog.consumers.name_fence import NameFence
from mirrorlog.consumers.open_ports import (
    check_primary_reader,
    fence_ports,
    own_lease,
    site_ports,
)
from mirrorlog.consumers.resync.reporting import SiteSummary
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.state_changes import OnChange, SecondaryChange
from mirrorlog.consumers.site_journals import apply_sealed, open_journals
from mirrorlog.consumers.site_metrics import site_samples
from mirrorlog.consumers.verify.wiring import serving_digests, site_digests
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.metric_samples import ExportingRole, MetricSamples
from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.settings import Settings

OnSummary: TypeAlias = Callable[[SiteSummary], None]
"""Takes the summary of all secondaries of a site."""

_ROUND_S: Final = 0.1
_SUMMARY_S: Final = 0.5


def ignore_ready() -> None:
    """Do nothing when the site is open."""


def ignore_life() -> None:
    """Do nothing about a sign of life."""


def ignore_url(url: str) -> None:
    """Do nothing with the address of the metrics."""
    del url


def ignore_change(change: SecondaryChange) -> None:
    """Do nothing about a change of state."""
    del change


def ignore_summary(summary: SiteSummary) -> None:
    """Do nothing with a summary."""
    del summary


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteCalls:
    """What a site calls. The fields are as the parameters of run_site.

    on_alive: called often while the site makes progress: in each round, and after each batch of
        blocks. A site that waits for Kafka calls it after `patience_s` at the latest, or ends.
    """

    on_ready: Callable[[], None] = ignore_ready
    on_summary: OnSummary = ignore_summary
    on_metrics: Callable[[str], None] = ignore_url
    on_change: OnChange = ignore_change
    on_alive: Callable[[], None] = ignore_life


def run_site(
    name: str,
    folder: Path,
    settings: Settings,
    *,
    stopped: Callable[[], bool] = lambda: False,
    on_ready: Callable[[], None] = ignore_ready,
    on_summary: OnSummary = ignore_summary,
    on_metrics: Callable[[str], None] = ignore_url,
    on_change: OnChange = ignore_change,
) -> None:
    """Keep the secondaries of the site `name` up to date until `stopped()` returns True.

        from pathlib import Path
        from threading import Event
        from mirrorlog.consumers import run_site
        from mirrorlog.settings import load_settings

        stop = Event()
        settings = load_settings(overrides={"bootstrap_servers": "localhost:9092"})
        run_site("berlin", Path("/srv/mirror"), settings, stopped=stop.is_set)

    folder: holds the saved states, and the secondaries of volumes that name no address for this
        site. It is created if needed, and locked for this process until the call returns.
    stopped: asked between two rounds, some ten times a second while nothing happens. A stop, or a
        kill, at any other point is safe too: the next run repeats the cycle that was cut off.
    on_ready: called once, when the site is open, before the first round.
    on_summary: called at most twice a second, if the summary has changed.
    on_metrics: called with the address of the metrics, if they are served (`metrics` in the
        settings), before `on_ready`.
    on_change: called with each change of state of a secondary, once; never for each block.

    Any thread may call it; it handles no signals. Raise BadUse if another process has the folder,
    and the errors of Site.run_once.
    """
    calls = SiteCalls(
        on_ready=on_ready, on_summary=on_summary, on_metrics=on_metrics, on_change=on_change
    )
    run_site_with(name, folder, settings, stopped, calls)


def run_site_with(
    name: str, folder: Path, settings: Settings, stopped: Callable[[], bool], calls: SiteCalls
) -> None:
    """Do as run_site, with all that can be called."""
    with (
        open_site(name, folder, settings, calls.on_change, calls.on_alive) as site,
        serving(site, folder, settings, calls.on_metrics),
    ):
        calls.on_ready()
        run_rounds(site, stopped, calls.on_summary, SystemClock())


def in_turn(first: Callable[[], None], then: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls both, the second only if the first returns."""

    def call_both() -> None:
        first()
        then()

    return call_both


@contextmanager
def serving(
    site: Site,
    folder: Path,
    settings: Settings,
    on_metrics: Callable[[str], None],
    is_held: Callable[[int], bool] = lambda _: True,
    more_samples: Callable[[], MetricSamples] = lambda: (),
) -> Iterator[None]:
    """Serve what a process of a site serves, in threads: its metrics, and digests of its volumes.

    folder: of the site. is_held: returns whether this process works for a partition.
    more_samples: returns metrics beside those of the site; any thread calls it.
    """

    def samples() -> MetricSamples:
        return chain(site_samples(site, settings.metrics_volumes), more_samples())

    digests = site_digests(site.name, folder.absolute(), settings, is_held)
    with (
        serving_metrics(settings, ExportingRole.SITE, samples, on_metrics),
        serving_digests(digests, settings),
    ):
        yield


def run_rounds(
    site: Site, stopped: Callable[[], bool], on_summary: OnSummary, clock: Clock
) -> None:
    """Run rounds of `site` until `stopped()` returns True. on_summary: as in run_site."""
    last_summary: SiteSummary | None = None
    last_at_s = float("-inf")
    while not stopped():
        site.run_once(_ROUND_S)
        if clock.monotonic_s() - last_at_s < _SUMMARY_S:
            continue
        summary = site.summary()
        if summary != last_summary:
            last_summary, last_at_s = summary, clock.monotonic_s()
            on_summary(summary)


@contextmanager
def open_site(
    name: str,
    folder: Path,
    settings: Settings,
    on_change: OnChange = ignore_change,
    on_alive: Callable[[], None] = ignore_life,
) -> Iterator[Site]:
    """Open a site on Kafka and on files. on_change, on_alive: as in run_site.

    Raise BadUse if another process has its folder, or runs the site elsewhere.
    """
    check_site_name(name)
    check_primary_reader(settings)
    folder = folder.absolute()
    with ExitStack() as stack:
        stack.callback(os.close, lock_folder(folder))
        journals = open_journals(folder, settings, stack)
        apply_sealed(name, folder, settings, journals)
        ports = replace(site_ports(name, folder, settings, stack), journals=journals)
        fence = NameFence(own_lease(name, folder, ports.clock), fence_ports(ports, settings, stack))
        fence.take()
        stack.callback(fence.give_up)
        ports = replace(
            ports,
            keep_name=in_turn(fence.keep, on_alive),
            note_caught_up=fence.note_caught_up,
            on_change=on_change,
        )
        yield Site(name, ports, settings)
