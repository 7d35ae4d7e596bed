"""Which point `restore --at` takes, and what it says can't be had."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from backup_positions import at
from command_line import run_main
from logs import log_written_at
from notation import site_progress, volume
from plain_images import catalog_with

from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.cli.support import restore_choice
from mirrorlog.cli.support.restore_choice import ChosenPoint, choose_point
from mirrorlog.consumers.backup.repository.catalog import VolumeCatalog
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.errors import BadUse, KafkaFailed, OutOfRetention
from mirrorlog.settings import Settings

SECOND = 10**6
NOW_US = 1_000 * SECOND


def catalog_of(*states: tuple[int, int]) -> VolumeCatalog:
    """Return a catalog of v with a point at each position, as of so many seconds."""
    catalog = catalog_with(
        {"position": at(position), "at_us": at_s * SECOND} for position, at_s in states
    )
    return replace(catalog, volume=volume().volume)


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    catalog: VolumeCatalog,
    text: str,
    *,
    reports: Sequence[SiteProgress] = (),
    error: Exception | None = None,
) -> ChosenPoint:
    """Return the choice. error: what asking Kafka raises.

    In the log, v was written to at 100, 200 and 300 s: positions 0, 2 and 4.
    """

    @contextmanager
    def query_ports(*_: object) -> Iterator[QueryPorts]:
        if error is not None:
            raise error
        yield log_written_at(100, 200, 300).ports()

    @contextmanager
    def open_present(*_: object, **__: object) -> Iterator[Any]:
        yield SimpleNamespace(reports=lambda _: reports)

    monkeypatch.setattr(restore_choice, "query_ports", query_ports)
    monkeypatch.setattr(restore_choice, "open_present", open_present)
    call: Any = SimpleNamespace(settings=Settings())
    return choose_point(call, catalog, text, now_us=NOW_US)


def site_at(position: int) -> SiteProgress:
    return site_progress(
        site="berlin",
        state=SiteState.CONSISTENT,
        applied_position=position,
        consistent_position=position,
    )


def names(catalog: VolumeCatalog) -> list[str]:
    return list(catalog.records)


def test_a_name_and_the_newest_ask_nothing_of_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = catalog_of((0, 100), (2, 200))
    first, second = names(catalog)
    for text, wanted in ((first, first), ("newest", second)):
        choice = chosen(monkeypatch, catalog, text, error=AssertionError("Kafka was asked"))
        assert (choice.record.point, choice.notes, choice.fields) == (wanted, (), {})


def test_what_was_written_between_the_point_and_the_time_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catalog = catalog_of((0, 100), (2, 200))
    first, second = names(catalog)
    choice = chosen(monkeypatch, catalog, "1970-01-01T00:02:30Z")  # 150 s
    assert (choice.record.point, choice.fields["is_exact"]) == (first, True)
    choice = chosen(monkeypatch, catalog, "1970-01-01T00:06:40Z")  # 400 s
    assert choice.record.point == second
    assert choice.fields == {
        "asked_at": "1970-01-01T00:06:40.000000Z",
        "is_exact": False,
        "missing_blocks": 1,
        "missing_bytes": 4096,
        "later": None,
    }
    assert "1 block, 4.0 KiB" in choice.notes[0]


@pytest.mark.parametrize("error", [KafkaFailed("no broker"), BadUse("no such volume")])
def test_without_kafka_nobody_tells_whether_a_point_is_exact(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = catalog_of((0, 100), (2, 200))
    choice = chosen(monkeypatch, catalog, "1970-01-01T00:02:30Z", error=error)
    assert choice.record.point == names(catalog)[0]
    assert (choice.fields["is_exact"], choice.fields["missing_bytes"]) == (None, None)
    assert "nobody tells" in choice.notes[0]
    with pytest.raises(OutOfRetention):
        chosen(monkeypatch, catalog, "1970-01-01T00:01:00Z", error=error)


def test_a_site_that_holds_the_bytes_of_a_point_hides_no_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catalog = catalog_of((0, 100), (2, 200))
    at = "1970-01-01T00:04:10Z"  # 250 s; the site has moved on with another volume
    choice = chosen(monkeypatch, catalog, at, reports=[site_at(3)])
    assert (choice.record.point, choice.fields["is_exact"]) == (names(catalog)[1], True)


def test_of_a_site_that_is_better_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = catalog_of((0, 100))
    with pytest.raises(OutOfRetention, match="no point of the repository is as good") as raised:
        chosen(monkeypatch, catalog, "1970-01-01T00:04:10Z", reports=[site_at(2)])
    assert raised.value.next is not None
    assert f"--at {names(catalog)[0]}" in raised.value.next
    named = shlex.split(raised.value.next.split("`")[1])
    assert named[:2] == ["mirrorlog", "backup"]
    code, _, err = run_main([*named[1:], "--wait", "nonsense"])
    assert (code, "nonsense" in err) == (2, True)  # all before that is understood
