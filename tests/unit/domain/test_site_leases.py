"""Which of several processes runs a site, one case on a line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirrorlog.domain.site_leases import SiteLease, first_step, has_lost
from mirrorlog.errors import BadUse

IDS = {letter: f"00000000-0000-4000-8000-00000000000{letter}" for letter in "abcdef"}
LEASE = SiteLease(
    site="s",
    run=IDS["a"],
    folder=IDS["f"],
    machine="m",
    term=4,
    host="h",
    pid=7,
    started_at_us=1_000_000,
)

# last lease: - none, over, or its folder and machine | heard again | silent for | step
FIRST = """
-    | no  | 0  | TAKE
over | no  | 0  | TAKE
f m  | no  | 0  | TAKE
f n  | no  | 0  | LISTEN
e m  | no  | 0  | LISTEN
e n  | no  | 11 | LISTEN
e n  | no  | 12 | TAKE
e n  | yes | 0  | REFUSE
e n  | yes | 99 | REFUSE
f n  | yes | 0  | REFUSE
"""


@pytest.mark.parametrize("case", FIRST.strip().splitlines())
def test_the_first_step(case: str) -> None:
    text, heard, silent, expected = (part.strip() for part in case.split("|"))
    last = None if text == "-" else replace(LEASE, is_over=text == "over", folder=IDS["e"])
    if " " in text and last is not None:
        folder, machine = text.split()
        last = replace(last, folder=IDS[folder], machine=machine)
    step = first_step(
        last,
        folder=IDS["f"],
        machine="m",
        heard=heard == "yes",
        silent_s=float(silent),
        limit_s=12,
    )
    assert step.name == expected


def test_a_machine_that_does_not_know_itself_proves_nothing() -> None:
    last = replace(LEASE, machine="")
    step = first_step(last, folder=IDS["f"], machine="", heard=False, silent_s=0, limit_s=12)
    assert step.name == "LISTEN"


# The own lease has term 4 at position 20. What another run publishes: term @ position | lost
LOST = """
3@10 | no
3@30 | no
4@10 | yes
4@30 | no
5@10 | yes
5@30 | yes
"""


@pytest.mark.parametrize("case", LOST.strip().splitlines())
def test_what_takes_the_site_away(case: str) -> None:
    text, expected = (part.strip() for part in case.split("|"))
    term, position = map(int, text.split("@"))
    seen = replace(LEASE, run=IDS["b"], term=term)
    assert has_lost(LEASE, 20, seen, position) is (expected == "yes")
    assert not has_lost(LEASE, 20, replace(LEASE, term=term), position)


def test_a_lease_says_who_has_it() -> None:
    assert LEASE.describe() == "process 7 on h, since 1970-01-01T00:00:01Z"


@pytest.mark.parametrize("changes", [{"site": "a/b"}, {"run": "x"}, {"folder": ""}, {"term": 0}])
def test_a_lease_that_none_has_cannot_be_made(changes: dict[str, object]) -> None:
    with pytest.raises((ValueError, BadUse)):
        replace(LEASE, **changes)  # type: ignore[arg-type]
