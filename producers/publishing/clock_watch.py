"""ClockWatch: does this machine's clock agree with the broker's? Heartbeats tell, for nothing.

Topics hold the broker's time (invariant 15). A command is made, then appended by the broker, then
acknowledged. So the broker's time of appending lies between two times of this machine if the clocks
agree, however long the command waited. What lies outside is an error of a clock, and is certain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import AppendTime
from mirrorlog.units import format_duration

FAR_S: Final = 10.0
"""A clock is far off if it is certainly wrong by more than this."""
_PROBE_S: Final = 10.0
"""A probe that isn't acknowledged for so long makes room for the next one."""
_REPEAT_S: Final = 3600.0


def clock_error_us(*, made_us: int, appended_us: int, acknowledged_us: int) -> int:
    """Return by how much this machine's clock is certainly ahead of the broker's. Pure.

    made_us, acknowledged_us: by this machine's clock, before a message was appended and after.
    appended_us: when the broker appended it, by the broker's clock.
    Negative: it is behind. 0: the three times don't contradict each other.
    """
    if made_us > appended_us:
        return made_us - appended_us
    return min(acknowledged_us - appended_us, 0)


@dataclass(frozen=True, slots=True)
class _Probe:
    """A command that was queued. made_us: the time in it. at_s: by the monotonic clock."""

    value: bytes
    made_us: int
    at_s: float


class ClockWatch:
    """Compares the clocks by one command at a time, and reports what is wrong.

    report: called with a line for people, when something is found and once an hour while it stays.
    The caller serializes the calls.
    """

    def __init__(self, clock: Clock, report: Callable[[str], None]) -> None:
        self._clock, self._report = clock, report
        self._probe: _Probe | None = None
        self._problem, self._reported_s = "", float("-inf")

    def note_queued(self, value: bytes, made_us: int) -> None:
        """Note a command that is queued now: it becomes the probe if there is none."""
        now_s = self._clock.monotonic_s()
        if self._probe is None or now_s - self._probe.at_s > _PROBE_S:
            self._probe = _Probe(value, made_us, now_s)

    def note_acknowledged(self, value: bytes, append: AppendTime | None) -> None:
        """Note that a command was acknowledged. append: its time on the topic, if it has one."""
        probe = self._probe
        if probe is None or probe.value != value:
            return
        self._probe = None
        if append is None:
            return
        problem, text = self._judge(probe, append)
        now_s = self._clock.monotonic_s()
        if problem and (problem != self._problem or now_s - self._reported_s > _REPEAT_S):
            self._reported_s = now_s
            self._report(text)
        elif self._problem and not problem:
            self._report("this machine's clock agrees with the broker's again")
        self._problem = problem

    def _judge(self, probe: _Probe, append: AppendTime) -> tuple[str, str]:
        """Return the kind of the problem and its text, both empty if there is none."""
        if not append.by_broker:
            return "topic", (
                f"topic {append.topic} holds the times of hosts, not the broker's: a host whose "
                "clock is an hour ahead is refused, and what a host writes whose clock is far "
                "behind is deleted early. Run `mirrorlog topics create`, which changes that"
            )
        error_s = (
            clock_error_us(
                made_us=probe.made_us,
                appended_us=append.at_us,
                acknowledged_us=self._clock.now_us(),
            )
            / 1e6
        )
        if abs(error_s) <= FAR_S:
            return "", ""
        side = "ahead of" if error_s > 0 else "behind"
        return side, (
            f"this machine's clock is at least {format_duration(abs(error_s))} {side} the "
            "broker's: times that people read are wrong by that, positions aren't. Set the clock"
        )
