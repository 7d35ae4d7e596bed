"""The port to the topic of reports, for people who look at a cluster (mirrorlog/domain/reports.py).

mirrorlog.adapters.kafka.report_publisher implements it.
"""

from __future__ import annotations

from typing import Protocol


class ReportSink(Protocol):
    """Takes reports, and publishes the newest of each key. It never harms the one who reports."""

    def publish(self, key: bytes, value: bytes) -> None:
        """Take a report in place of an earlier one of its key. Never wait, and never raise."""

    def close(self) -> None:
        """Publish what was taken, within a few seconds, and take nothing any more. Never raise."""


class NoReports:
    """A ReportSink that drops everything."""

    def publish(self, key: bytes, value: bytes) -> None:
        """Drop a report."""

    def close(self) -> None:
        """Do nothing."""
