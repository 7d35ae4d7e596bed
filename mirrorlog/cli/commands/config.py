"""`mirrorlog config show | check | example`: the settings, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import typer

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.global_options import given_options
from mirrorlog.cli.support.output import Output, write_pieces
from mirrorlog.cli.support.settings_view import ShownSetting, examine, shown_settings
from mirrorlog.cli.support.tables import Column, print_table
from mirrorlog.errors import BadUse

app = typer.Typer(
    no_args_is_help=True, help="Show the settings and where they come from, and check them."
)

_COLUMNS = (Column("SETTING"), Column("VALUE", wraps=True), Column("FROM", wraps=True))


@app.command()
def show(context: typer.Context) -> None:
    """Print each setting, its value, and where it comes from. Secrets are hidden.

    A setting NAME is the variable MIRRORLOG_NAME in the environment.
    """
    given = given_options(context)
    loaded, problems = examine(given.values)
    output = Output.of(given)
    if loaded is None:
        raise problems[0]
    settings = shown_settings(loaded, given.values)
    output.print_json(
        {"schema_version": 1, "settings": [setting.as_fields() for setting in settings]}
    )
    print_table(output, _COLUMNS, [setting.as_row() for setting in settings])
    if problems:
        raise problems[0]


@app.command()
def example(context: typer.Context) -> None:
    """Print a configuration file with every setting, its meaning, unit and default.

    All of it is commented out, so the file changes nothing until a line is.
    """
    from mirrorlog.cli.support.settings_example import example_text

    output = Output.of(given_options(context))
    text = example_text()
    output.print_json({"schema_version": 1, "toml": text})
    if not output.json:
        write_pieces([text], quiet=False)


@app.command()
def check(context: typer.Context) -> None:
    """Look for everything that is wrong with the settings. Exit 2 if something is.

    Kafka's client checks the names and values of its own settings; no broker is asked.
    """
    given = given_options(context)
    loaded, problems = examine(given.values)
    output = Output.of(given)
    if loaded is not None and not problems:
        try:
            call = invocation(context)
            with closing(KafkaAdmin(call.settings.kafka_client())):
                pass
        except BadUse as error:
            problems = [error]
    output.print_json(
        {
            "schema_version": 1,
            "ok": not problems,
            "problems": [problem.as_message() for problem in problems],
        }
    )
    if len(problems) == 1:
        raise problems[0]
    if problems:
        for problem in problems:
            output.print_text(str(problem))
        raise BadUse(f"{len(problems)} settings are wrong", next="Correct each of them.")
    assert loaded is not None
    output.print_text(_all_right(shown_settings(loaded, given.values)))


def _all_right(settings: list[ShownSetting]) -> str:
    counts = Counter(setting.origin for setting in settings)
    sources = ", ".join(f"{count} by {origin}" for origin, count in sorted(counts.items()))
    return f"nothing is wrong with the {len(settings)} settings: {sources}; Kafka wasn't asked"
