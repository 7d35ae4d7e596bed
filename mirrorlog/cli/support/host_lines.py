"""What a running host says: its session, when Kafka goes and comes back, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from mirrorlog.cli.support.output import Output
from mirrorlog.producers.session.figures import HostFigures
from mirrorlog.producers.session.host import Host
from mirrorlog.settings import Settings
from mirrorlog.units import format_count, format_duration, format_size

LOOK_S: Final = 0.5
_NAMED: Final = 5
"""How many volumes a line names."""


class HostLines:
    """Prints lines for people, or with --json a message for each.

    monotonic_s: the time by a monotonic clock.
    """

    def __init__(
        self, host: str, settings: Settings, output: Output, monotonic_s: Callable[[], float]
    ) -> None:
        self._host, self._settings, self._output = host, settings, output
        self._now_s = monotonic_s
        self._looked_s = float("-inf")
        self._away_since_s: float | None = None

    @property
    def is_away(self) -> bool:
        """Return whether Kafka was away at the last look."""
        return self._away_since_s is not None

    def described(self, volumes: Collection[str]) -> str:
        """Return in words which volumes the host tracks, and to which Kafka it publishes."""
        servers = self._settings.servers
        names = [*sorted(volumes)[:_NAMED]]
        more = f" and {len(volumes) - _NAMED} more" if len(volumes) > _NAMED else ""
        return (
            f"host {self._host} has {', '.join(names)}{more} open and publishes to "
            f"{self._settings.topics.commands} at {servers.addresses} ({servers.chosen_by()})"
        )

    def look(self, figures: Callable[[], HostFigures]) -> None:
        """Say if Kafka has gone or come back since the last look. Call it as often as you like."""
        now_s = self._now_s()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        seen = figures()
        is_away = seen.away_s >= self._settings.host_away_s
        if is_away and self._away_since_s is None:
            self._away_since_s = now_s - seen.away_s
            self._say(
                "kafka_away",
                _waiting_fields(seen),
                f"Kafka has acknowledged nothing for {format_duration(seen.away_s)}: writes go on, "
                f"and what they changed waits ({_waiting(seen)})",
            )
        elif self._away_since_s is not None and seen.away_s == 0:
            away_s = now_s - self._away_since_s
            self._away_since_s = None
            self._say(
                "kafka_back",
                {"away_s": away_s, **_waiting_fields(seen)},
                f"Kafka acknowledges again after {format_duration(away_s)} ({_waiting(seen)})",
            )

    def stopped(self, host: Host) -> None:
        """Say what a session that has ended in order leaves. Call it after Host.close()."""
        if not self._output.json:
            self._output.print_text(stopped_text(self._host, host.commands, host.last_positions))

    def _say(self, message_type: str, fields: Mapping[str, object], text: str) -> None:
        if self._output.json:
            self._output.print_message(message_type, {"host": self._host, **fields})
        else:
            self._output.print_text(text)


def stopped_text(host: str, commands: int, last_positions: Mapping[str, int]) -> str:
    """Return what a session that has ended in order leaves. last_positions: by volume."""
    named = [
        f"{name} through position {position}"
        for name, position in sorted(last_positions.items())[:_NAMED]
    ]
    more = len(last_positions) - len(named)
    listed = ", ".join([*named, *([f"and {more} more"] if more else [])])
    ends = f": {listed}" if listed else ""
    count = format_count(commands, "command")
    return (
        f"host {host} is stopped: its session is closed, and Kafka has all of its {count}{ends}. "
        "Nothing is left to be published"
    )


def _waiting(seen: HostFigures) -> str:
    return (
        f"{format_size(seen.queued_bytes)} in memory, {format_size(seen.spool_bytes)} of "
        f"{format_size(seen.spool_limit_bytes)} in the spool"
    )


def _waiting_fields(seen: HostFigures) -> dict[str, object]:
    return {
        "queued_bytes": seen.queued_bytes,
        "spool_bytes": seen.spool_bytes,
        "spool_limit_bytes": seen.spool_limit_bytes,
    }
