"""The output of `mirrorlog check`, by the Monitoring Plugins Development Guidelines. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mirrorlog.status.health import Health, Thresholds
from mirrorlog.status.overview import Overview

MAX_NAMED_REPLICAS = 20
"""With more secondaries, the performance data names no single one."""


def plugin_lines(overview: Overview, thresholds: Thresholds) -> list[str]:
    """Return the line with the performance data, then one for each thing that isn't OK."""
    details = list(_details(overview))
    counts = Counter(row.health for row in overview.replicas)
    text = f"{counts[Health.OK]} of {len(overview.replicas)} secondaries are up to date"
    if details:
        text += f"; {details[0]}" + (f" (and {len(details) - 1} more)" if details[1:] else "")
    data = " ".join(_performance(overview, thresholds, counts))
    # A bar would end the text.
    head = f"MIRRORLOG {overview.health.name} - {text}".replace("|", "/").replace("\n", " ")
    return [f"{head} | {data}", *(line.replace("|", "/") for line in details)]


def error_line(health: Health, text: str) -> str:
    """Return the line of a check that couldn't be made."""
    one_line = " ".join(text.replace("|", "/").split())
    return f"MIRRORLOG {health.name} - {one_line}"


def _details(overview: Overview) -> Iterable[str]:
    """Yield what isn't OK, the worst first."""
    lines: list[tuple[Health, str]] = []
    for row in overview.replicas:
        name = f"volume {row.volume}" + (f" at {row.site}" if row.site else "")
        lines.append((row.health, f"{name}: {row.reason or _lag_text(row.lag.lag_s)}"))
    for group in overview.groups:
        lines.append((group.health, f"group {group.group} at {group.site}: {group.reason}"))
    lines += [(row.health, f"site {row.site}: {row.reason}") for row in overview.sites]
    for host in overview.hosts:
        name = f"host {host.report.host} on {host.report.volume}"
        lines.append((host.health, f"{name}: {host.reason}"))
    lines += [
        (node.health, f"node {node.report.node}: {node.reason}")
        for node in overview.nodes
        if node.report.partitions
    ]
    lines += [
        (archive.health, f"archive {archive.report.archive}: {archive.reason}")
        for archive in overview.archives
    ]
    lines += [
        (
            backup.health,
            f"backup of {backup.report.volume} to {backup.report.address}: {backup.reason}",
        )
        for backup in overview.backups
    ]
    if overview.partitions is None:
        lines.append((Health.UNKNOWN, f"hosts and node: {overview.reports_error}"))
    else:
        lines.append((overview.partitions.health, str(overview.partitions.reason)))
    if overview.unreadable:
        lines.append((Health.UNKNOWN, f"{overview.unreadable} reports can't be read"))
    bad = [line for line in lines if line[0] is not Health.OK]
    if overview.health is not Health.OK and not bad:
        bad = [(Health.WARNING, f"an event was refused: {overview.quarantine.text}")]
    for health, text in sorted(bad, key=lambda line: -line[0].severity):
        yield f"{health.name}: {text}"


def _lag_text(lag_s: float | None) -> str:
    return "how far it lags isn't known" if lag_s is None else f"it lags {lag_s:.0f} s"


def _performance(
    overview: Overview, thresholds: Thresholds, counts: Counter[Health]
) -> Iterable[str]:
    """Yield `label=value[unit];warn;crit;min`. U: the value isn't known."""
    rows = overview.replicas
    limits = f"{thresholds.warn_lag_s:g};{thresholds.crit_lag_s:g};0"
    bytes_limits = (
        f"{_limit(thresholds.warn_behind_bytes)};{_limit(thresholds.crit_behind_bytes)};0"
    )
    for health in Health:
        yield f"secondaries_{health.name.lower()}={counts[health]};;;0;{len(rows)}"
    lags, behind = [row.lag.lag_s for row in rows], [row.behind_bytes for row in rows]
    yield f"max_lag={_highest(lags)};{limits}"
    yield f"behind={_total(behind)};;;0"
    yield f"quarantine={overview.quarantine.count};;;0"
    if len(rows) <= MAX_NAMED_REPLICAS:
        for row in rows:
            name = f"{row.volume}@{row.site or '-'}"
            lag_s = row.lag.lag_s
            yield f"{name}_lag={'U' if lag_s is None else f'{lag_s:.3f}s'};{limits}"
            size = "U" if row.behind_bytes is None else f"{row.behind_bytes}B"
            yield f"{name}_behind={size};{bytes_limits}"


def _limit(value: int | None) -> str:
    return "" if value is None else str(value)


def _highest(lags: list[float | None]) -> str:
    known = [lag for lag in lags if lag is not None]
    return f"{max(known):.3f}s" if known and len(known) == len(lags) else "U"


def _total(behind: list[int | None]) -> str:
    known = [size for size in behind if size is not None]
    return f"{sum(known)}B" if known and len(known) == len(behind) else "U"
