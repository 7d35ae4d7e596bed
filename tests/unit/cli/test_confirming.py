"""What gives something up for good asks first, and --dry-run does nothing."""

from __future__ import annotations

import io
import json
import sys

import pytest
import typer
from command_tree import command_tree

from mirrorlog.cli.support.confirming import is_confirmed
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.output import Output
from mirrorlog.errors import BadUse
from mirrorlog.settings import Settings

COST = "Each site copies again. "


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def call(*, json: bool = False) -> Invocation:
    return Invocation(Settings(), Output(json=json), verbose=False)


def test_yes_goes_on_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert is_confirmed(call(), "v", COST, yes=True, dry_run=False)


def test_without_a_terminal_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(BadUse, match="Each site copies again") as refused:
        is_confirmed(call(), "v", COST, yes=False, dry_run=False)
    assert "--yes" in refused.value.next


def test_on_a_terminal_the_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert is_confirmed(call(), "v", COST, yes=False, dry_run=False)
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    with pytest.raises(typer.Abort):
        is_confirmed(call(), "v", COST, yes=False, dry_run=False)


@pytest.mark.parametrize("yes", [False, True])
def test_a_dry_run_says_what_it_would_cost(yes: bool, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"consistent_position": None}
    assert not is_confirmed(call(json=True), "v", COST, yes=yes, dry_run=True, facts=facts)
    fields = json.loads(capsys.readouterr().out)
    assert (fields["dry_run"], fields["cost"]) == (True, COST.strip())
    assert fields["volume"] == "v" and fields["consistent_position"] is None


def test_every_command_that_asks_can_be_tried_dry() -> None:
    for words, command in command_tree().items():
        options = {option for param in command.params for option in param.opts}
        assert ("--yes" in options) <= ("--dry-run" in options), words
