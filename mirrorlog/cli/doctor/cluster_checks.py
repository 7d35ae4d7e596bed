"""Judges what the cluster says. Pure: each function takes the snapshot, and yields findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mirrorlog import __version__
from mirrorlog.acls import Role
from mirrorlog.cli.doctor.findings import Finding, Result, failed, not_asked, ok, warning
from mirrorlog.cli.doctor.snapshot import NoCluster, NotAsked, Snapshot
from mirrorlog.domain.host_keys import HostKeys
from mirrorlog.status.health import Health
from mirrorlog.status.sites import Life
from mirrorlog.units import format_duration

CLOCK_S: Final = 2.0
"""A machine whose clock is behind the broker's by more has a wrong clock, or the broker has."""
RECENT_S: Final = 15.0
"""Sites send a lease every 3 s, hosts and workers a report every 10 s."""


def check_broker(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge whether a broker answers, and say which cluster it is."""
    cluster = snapshot.cluster
    if isinstance(cluster, NotAsked):
        yield not_asked(cluster)
    elif isinstance(cluster, NoCluster):
        yield failed(cluster.what, cluster.where, cluster.next)
    else:
        kafka = f"Kafka {cluster.version}" if cluster.version else "a Kafka of unknown version"
        text = f"{kafka} answers: cluster {cluster.cluster_id}, brokers: {cluster.brokers}"
        yield ok(text, f"{cluster.servers}, {cluster.chosen_by}")


def check_clock(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge the machine's clock by the time that the broker gave to the newest message.

    A message of the future proves that the machine's clock is behind. One of long ago proves
    nothing: the clock may be ahead, or nothing was said for a while.
    """
    clock = snapshot.clock
    if isinstance(clock, NotAsked):
        yield not_asked(clock)
        return
    if clock.newest_append_us is None:
        yield not_asked(NotAsked("no message tells the broker's time"))
        return
    age_s = (clock.now_us - clock.newest_append_us) / 1e6
    if age_s < -CLOCK_S:
        text = f"this machine's clock is {format_duration(-age_s)} or more behind the broker's"
        yield warning(text, next="Set the clock that is wrong (NTP). Positions don't go by it.")
    elif age_s <= RECENT_S:
        text = (
            f"the newest message is of {format_duration(max(age_s, 0))} ago by this machine's clock"
        )
        yield ok(f"nothing shows that the clocks differ: {text}")
    else:
        text = f"the newest message is of {format_duration(age_s)} ago by this machine's clock"
        yield not_asked(NotAsked(f"{text}, so nothing tells the broker's time now"))


def check_quarantine(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge whether events were refused."""
    if isinstance(snapshot.overview, NotAsked):
        yield not_asked(snapshot.overview)
        return
    news = snapshot.overview.quarantine
    if not news.count:
        yield ok("no refused event is kept")
        return
    newest = f"; the newest: {news.text}".rstrip(".") if news.text else ""
    yield warning(
        f"at most {news.count} events were refused{newest}",
        None if news.position is None else f"partition {news.partition}, position {news.position}",
        "`mirrorlog topics tail quarantine` shows them.",
    )


def check_host_keys(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge the keys of hosts, where volumes are authenticated or the settings name keys."""
    facts, authenticated, settings = snapshot.host_keys, snapshot.authenticated, snapshot.settings
    if isinstance(facts, NotAsked):
        yield not_asked(facts)
        return
    if facts.problem is not None:
        yield failed(facts.problem.what, facts.problem.where, facts.problem.next)
        return
    if facts.is_open:
        yield warning(
            "others than its owner may read the file of host keys, and so send any command",
            str(facts.path),
            "Take the right from them (chmod 600).",
        )
    if isinstance(authenticated, NotAsked):
        yield not_asked(authenticated)
        return
    is_node = facts.path is not None or snapshot.role is Role.NODE
    lacking = [name for name in authenticated if not _has_key(facts.keys, name)] if is_node else []
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        yield failed(
            "no host key may touch an authenticated volume, so the node refuses its commands",
            f"volume {lacking[0]}{more}",
            "Add a holder for it to the node's file (node_host_keys_file, docs/host-keys.md).",
        )
    elif snapshot.role is Role.HOST and authenticated and settings and not settings.host_key:
        yield warning(
            f"{len(authenticated)} volumes are authenticated, and this host has no key",
            f"volume {next(iter(authenticated))}",
            "Set host_key_file if the host is to open one (docs/host-keys.md).",
        )
    else:
        yield ok(f"{len(authenticated)} volumes are authenticated")


def _has_key(keys: HostKeys, volume: str) -> bool:
    return any(keys.holders[key.holder].may_touch(volume) for key in keys.keys.values())


def check_versions(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge whether all workers of the node that live are of this release."""
    overview = snapshot.overview
    if isinstance(overview, NotAsked):
        yield not_asked(overview)
        return
    living = [node.report for node in overview.nodes if not node.is_silent]
    others = [report for report in living if report.version != __version__]
    for report in others:
        yield warning(
            f"it runs mirrorlog {report.version}, and this is {__version__}",
            f"worker {report.node}",
            "Upgrade every worker first, then sites and hosts (docs/upgrading.md).",
        )
    if not living:
        yield not_asked(NotAsked("no worker of the node reports which release it is of"))
    elif not others:
        yield ok(
            f"every worker of the node that lives ({len(living)}) runs mirrorlog {__version__}"
        )


def check_node(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge the workers of the node by their reports."""
    overview = snapshot.overview
    if isinstance(overview, NotAsked):
        yield not_asked(overview)
        return
    if overview.partitions is None:
        yield not_asked(NotAsked(overview.reports_error or "the workers' reports can't be read"))
        return
    care = overview.partitions
    if care.health is not Health.OK:
        # Without a volume there is nothing to record yet.
        health = care.health if overview.replicas else Health.WARNING
        yield Finding(_result(health), care.reason or "", next=care.next_action)
    else:
        yield ok("every partition has a worker that lives")
    for node in overview.nodes:
        if node.health is not Health.OK and node.report.partitions:
            where = f"worker {node.report.node}"
            yield Finding(_result(node.health), node.reason or "", where, node.next_action)


def check_sites(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge the sites by their leases."""
    overview = snapshot.overview
    if isinstance(overview, NotAsked):
        yield not_asked(overview)
        return
    running = [site.site for site in overview.sites if site.life is Life.RUNNING]
    bad = [site for site in overview.sites if site.health is not Health.OK]
    for site in bad:
        where = f"site {site.site}"
        yield Finding(_result(site.health), site.reason or "", where, site.next_action)
    if running:
        yield ok(f"sites that run: {', '.join(running)}")
    elif not bad:
        yield ok("no site runs, and none has volumes")


def _result(health: Health) -> Result:
    """Return the result that stands for a level of health. What isn't known is a warning."""
    if health is Health.CRITICAL:
        return Result.FAILED
    return Result.OK if health is Health.OK else Result.WARNING


def check_hosts(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge the hosts by their reports."""
    overview = snapshot.overview
    if isinstance(overview, NotAsked):
        yield not_asked(overview)
        return
    bad = [row for row in overview.hosts if row.health is not Health.OK]
    for row in bad:
        where = f"host {row.report.host}, volume {row.report.volume}"
        yield warning(row.reason or "", where, row.next_action)
    if not bad:
        yield ok(f"{len(overview.hosts)} volumes are open at hosts, and all report well")
