"""Which point `restore --at` means: by its name, or for a time, with what can't be had."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from mirrorlog.changed.ask import query_ports
from mirrorlog.changed.points import AtTime, format_time
from mirrorlog.changed.worded_times import understand_point
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.point_at import NEWEST, chosen_point
from mirrorlog.cli.support.present import open_present
from mirrorlog.consumers.backup.repository.catalog import PointRecord, VolumeCatalog
from mirrorlog.consumers.backup.repository.object_names import POINT
from mirrorlog.consumers.backup.sources.times import (
    TimeChoice,
    TimedState,
    choose_for_time,
    states_of_sites,
)
from mirrorlog.errors import BadUse, KafkaFailed, OutOfRetention
from mirrorlog.status.health import Thresholds

_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenPoint:
    """The point that is restored.

    notes: what can't be had, for people. fields: the same for --json.
    """

    record: PointRecord
    notes: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)


def choose_point(
    call: Invocation, catalog: VolumeCatalog, text: str, *, now_us: int
) -> ChosenPoint:
    """Return the point that `text` names. now_us: the time from which words count.

    For a time, the log is asked whether the point is exactly the volume as of then, and what was
    written in between. If Kafka can't be asked, or doesn't know the volume, the newest point that
    isn't after the time is taken, and the notes say so.

    Raise OutOfRetention if no point reaches back, or if only a site has that state; BadUse and
    StateDamaged as chosen_point().
    """
    name = text.strip()
    asked = None if POINT.fullmatch(name) or name == NEWEST else understand_point(text, now_us)
    if not isinstance(asked, AtTime):
        return ChosenPoint(record=chosen_point(catalog, text, now_us=now_us))
    try:
        choice = _ask(call, catalog, asked.at_us)
    except (KafkaFailed, BadUse) as error:
        record = chosen_point(catalog, text, now_us=now_us)
        at = format_time(record.manifest.time_us)
        note = (
            f"{record.point} is of {at}, and nobody tells what was written between that and "
            f"{format_time(asked.at_us)}: {error.what}"
        )
        fields = {"asked_at": format_time(asked.at_us), "is_exact": None, "missing_bytes": None}
        return ChosenPoint(record=record, notes=(note,), fields=fields)
    if not choice.state.is_point:
        raise _only_at_site(choice, catalog)
    return ChosenPoint(
        record=catalog.point(choice.state.name),
        notes=(choice.describe(),),
        fields={
            "asked_at": format_time(choice.asked_us),
            "is_exact": choice.is_exact,
            "missing_blocks": choice.missing_blocks,
            "missing_bytes": choice.missing_bytes,
            "later": None if choice.later is None else choice.later.name,
        },
    )


def _ask(call: Invocation, catalog: VolumeCatalog, at_us: int) -> TimeChoice:
    """Ask the log which state stands for a time: a point, or the present one of a site."""
    settings, name = call.settings, catalog.volume
    with (
        query_ports(settings, _PATIENCE_S) as query,
        open_present(settings, Thresholds(), volume=name) as view,
    ):
        query.catalog.refresh()
        volume = query.catalog.volume_named(name)
        states: Iterable[TimedState] = (
            *(_timed(record) for record in catalog.points),
            *states_of_sites(view.reports(name), volume, query),
        )
        return choose_for_time(states, at_us, volume, query, _PATIENCE_S)


def _timed(record: PointRecord) -> TimedState:
    manifest = record.manifest
    return TimedState(name=manifest.point, position=manifest.position, at_us=manifest.at_us)


def _only_at_site(choice: TimeChoice, catalog: VolumeCatalog) -> OutOfRetention:
    """Return the error for a time for which the state of a site stands, and no point."""
    site = choice.state.name.removeprefix("site ")
    earlier = [
        record
        for record in catalog.points
        if record.manifest.at_us is not None and record.manifest.at_us <= choice.asked_us
    ]
    nearest = max(earlier, key=lambda record: record.manifest.time_us, default=None)
    other = "" if nearest is None else f", or name the point before it: --at {nearest.point}"
    return OutOfRetention(
        f"{choice.describe()}; no point of the repository is as good",
        where=f"volume {catalog.volume}",
        next=f"Take a point of it (`mirrorlog backup {catalog.volume} --to REPO --from-site {site} "
        f"--dir DIR`) and restore that{other}.",
    )
