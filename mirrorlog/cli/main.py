"""The command line: commands, global options, and the one place where an error becomes an exit code."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.commands import (
    broker,
    changed,
    command,
    demo,
    host,
    import_,
    log,
    node,
    site,
    topics,
    volume,
)
from mirrorlog.cli.support.context import Invocation, settings_from
from mirrorlog.cli.support.output import Output, report_error
from mirrorlog.errors import ExitCode, MirrorlogError, exit_code_of

app = typer.Typer(
    name="mirrorlog",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Keeps remote copies of volumes up to date by sending addresses instead of data.",
)
app.command("changed")(changed.changed)
app.command("demo")(demo.demo)
app.command("node")(node.node)
app.add_typer(volume.app, name="volume")
app.add_typer(host.app, name="host")
app.add_typer(site.app, name="site")
app.add_typer(command.app, name="command")
app.add_typer(import_.app, name="import")
app.add_typer(log.app, name="log")
app.add_typer(topics.app, name="topics")
app.add_typer(broker.app, name="broker")


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Settings, TOML.", metavar="FILE")
    ] = None,
    client_file: Annotated[
        Path | None, typer.Option("-F", help="Kafka client settings, key=value.", metavar="FILE")
    ] = None,
    client_options: Annotated[
        list[str] | None,
        typer.Option(
            "-X", help="One Kafka client setting by librdkafka's name.", metavar="KEY=VALUE"
        ),
    ] = None,
    bootstrap_servers: Annotated[
        str | None,
        typer.Option("--bootstrap-servers", help="The Kafka cluster.", metavar="HOST:PORT,…"),
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option("--state-dir", help="Where state lives.", metavar="DIR")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout, text on stderr.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No text.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Log lines, and tracebacks of errors.")
    ] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours.")] = False,
) -> None:
    """Reads the global options."""
    # librdkafka writes twenty lines a second while a broker is away; what matters of them becomes an error of ours.
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(name)s: %(message)s",
    )
    for noisy in ("mirrorlog.kafka", "stamina"):
        logging.getLogger(noisy).setLevel(logging.INFO if verbose else logging.CRITICAL)
    settings = settings_from(
        config, client_file, client_options or [], bootstrap_servers, state_dir
    )
    context.obj = Invocation(settings, Output(json=json, quiet=quiet, no_color=no_color), verbose)


def main() -> None:
    """Runs the command; every end of it passes here."""
    arguments = sys.argv[1:]
    try:
        # Typer answers an interruption and typer.Exit with a number here.
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else int(ExitCode.OK))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(int(ExitCode.INTERRUPTED))
    except MirrorlogError as error:
        report_error(
            error,
            as_json="--json" in arguments,
            verbose="-v" in arguments or "--verbose" in arguments,
        )
        sys.exit(int(exit_code_of(error)))
    except Exception as error:
        if hasattr(error, "show"):  # click's own: a wrong option, a missing argument
            error.show()
            sys.exit(int(ExitCode.BAD_USE))
        raise
