"""What `mirrorlog site remove` says: what is lost with a site, and what was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mirrorlog.cli.support.output import Output
from mirrorlog.consumers.site_removal import LastReports
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.units import format_count

_MAX_NAMED: Final = 8


def removal_cost(site: str, reports: LastReports) -> str:
    """Return in sentences what is given up with the site whose last reports these are."""
    if not reports:
        return f"Site {site} has no secondary. Its name is given up."
    consistent = [
        volume
        for volume, report in reports.items()
        if report is not None and report.state is SiteState.CONSISTENT
    ]
    return (
        f"The log is no longer kept for site {site}. Its reports on "
        f"{format_count(len(reports), 'volume')} are deleted: {_named(list(reports))}. "
        f"{len(consistent)} of its secondaries were consistent when it last reported. They stay as "
        "they are, and nobody watches them any more. If the site comes back after the log let go "
        "what they lack, it copies all that is allocated."
    )


def removal_fields(site: str, reports: LastReports) -> dict[str, Any]:
    """Return the site and its last reports as JSON has them. Of one that can't be read, nulls."""
    volumes: list[Mapping[str, object]] = [
        {
            "volume": volume,
            "state": None if report is None else str(report.state),
            "generation": None if report is None else report.generation,
            "applied_position": None if report is None else report.applied_position,
            "consistent_position": None if report is None else report.consistent_position,
        }
        for volume, report in reports.items()
    ]
    return {"site": site, "reports": len(reports), "volumes": volumes}


def print_removed(output: Output, site: str, reports: LastReports) -> None:
    """Say that the site is removed, and with which reports."""
    output.print_json({"schema_version": 1, **removal_fields(site, reports)})
    volumes = format_count(len(reports), "volume")
    output.print_text(f"site {site} is removed, with its reports on {volumes}")


def _named(volumes: list[str]) -> str:
    more = len(volumes) - _MAX_NAMED
    named = ", ".join(volumes[:_MAX_NAMED])
    return f"{named} and {more} more" if more > 0 else named
