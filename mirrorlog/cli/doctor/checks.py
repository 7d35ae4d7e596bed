"""The one table of checks, and what all of them find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from mirrorlog.cli.doctor.cluster_checks import (
    check_broker,
    check_clock,
    check_host_keys,
    check_hosts,
    check_node,
    check_quarantine,
    check_sites,
    check_versions,
)
from mirrorlog.cli.doctor.findings import Finding, Result
from mirrorlog.cli.doctor.machine_checks import (
    check_configuration,
    check_identity,
    check_libraries,
    check_open_files,
    check_ports,
    check_state_folder,
    check_tools,
)
from mirrorlog.cli.doctor.snapshot import Snapshot
from mirrorlog.cli.doctor.topic_checks import check_rights, check_topic_settings, check_topics

Judge: TypeAlias = Callable[[Snapshot], Iterable[Finding]]
"""Yields at least one finding, and does no input or output."""

CHECKS: Final[Mapping[str, Judge]] = {
    "libraries": check_libraries,
    "configuration": check_configuration,
    "identity": check_identity,
    "state folder": check_state_folder,
    "open files": check_open_files,
    "http ports": check_ports,
    "tools": check_tools,
    "broker": check_broker,
    "topics": check_topics,
    "topic settings": check_topic_settings,
    "rights": check_rights,
    "clock": check_clock,
    "versions": check_versions,
    "node": check_node,
    "sites": check_sites,
    "hosts": check_hosts,
    "host keys": check_host_keys,
    "quarantine": check_quarantine,
}
"""By name, in the order in which they are printed."""


def judge(snapshot: Snapshot) -> list[tuple[str, Finding]]:
    """Return what every check finds, with the check's name. Pure."""
    return [(name, finding) for name, check in CHECKS.items() for finding in check(snapshot)]


def has_failed(findings: Iterable[tuple[str, Finding]]) -> bool:
    """Return whether something was found that breaks mirrorlog."""
    return any(finding.result is Result.FAILED for _, finding in findings)
