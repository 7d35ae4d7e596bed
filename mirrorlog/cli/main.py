"""The command line: its commands, its global options, and how an error becomes an exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.support.lazy_commands import LazyCommand, lazy_group
from mirrorlog.cli.support.output import Output, report_error
from mirrorlog.errors import ExitCode, MirrorlogError, exit_code_of

_PACKAGE = "mirrorlog.cli.commands"
COMMANDS = (
    LazyCommand(
        "demo",
        f"{_PACKAGE}.demo",
        "Run broker, node, host and sites on a real recording, and check every copy.",
    ),
    LazyCommand(
        "broker",
        f"{_PACKAGE}.broker",
        "Start and stop the embedded Kafka: one broker, for this machine only.",
    ),
    LazyCommand(
        "topics", f"{_PACKAGE}.topics", "Create mirrorlog's topics, and print what they hold."
    ),
    LazyCommand(
        "volume",
        f"{_PACKAGE}.volume",
        "Create, list, grow, move, renew and retire mirrored volumes.",
    ),
    LazyCommand(
        "host", f"{_PACKAGE}.host", "Run a host, which writes to volumes and tracks the writes."
    ),
    LazyCommand(
        "node",
        f"{_PACKAGE}.node",
        "Run a worker of the processing node (a Faust worker) until it is stopped.",
    ),
    LazyCommand("site", f"{_PACKAGE}.site", "Run a site, which keeps secondaries up to date."),
    LazyCommand(
        "changed", f"{_PACKAGE}.changed", "List the blocks of a volume that changed in a range."
    ),
    LazyCommand("command", f"{_PACKAGE}.command", "Send tracking commands by hand."),
    LazyCommand(
        "import",
        f"{_PACKAGE}.import_",
        "Track a volume from recordings and dirty maps of other tools (docs/import.md).",
    ),
    LazyCommand("log", f"{_PACKAGE}.log", "Show the tracking log, and check it."),
)

app = typer.Typer(
    name="mirrorlog",
    cls=lazy_group(COMMANDS),
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Keep remote copies of volumes up to date by sending addresses instead of data.",
)


@app.callback()
def read_global_options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", help="Read settings from a TOML file.", metavar="FILE"),
    ] = None,
    client_file: Annotated[
        Path | None,
        typer.Option(
            "-F", help="Read Kafka client settings from a file of key=value lines.", metavar="FILE"
        ),
    ] = None,
    client_options: Annotated[
        list[str] | None,
        typer.Option(
            "-X",
            help="Set one Kafka client setting, by librdkafka's name. Repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(
            "--bootstrap-servers",
            help="Connect to the Kafka cluster at these addresses.",
            metavar="HOST:PORT,…",
        ),
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option("--state-dir", help="Keep state in this folder.", metavar="DIR")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON on stdout, and text on stderr.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print no text.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Print log lines, and tracebacks of errors.")
    ] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Print without colours.")] = False,
) -> None:
    """Make the Invocation that every command takes from `context` (support/context.py)."""
    # The settings need pydantic, which `mirrorlog --help` can do without.
    from mirrorlog.cli.support.context import Invocation, settings_from
    from mirrorlog.cli.support.log_lines import set_up_logging

    set_up_logging(verbose=verbose)
    settings = settings_from(
        config, client_file, client_options or [], bootstrap_servers, state_dir
    )
    context.obj = Invocation(settings, Output(json=json, quiet=quiet, no_color=no_color), verbose)


def main() -> None:
    """Run the command that sys.argv names, and exit with its code (errors.ExitCode).

    Every command ends here. An error that mirrorlog doesn't raise on purpose leaves with its
    traceback.
    """
    arguments = sys.argv[1:]
    try:
        # Without standalone mode, Typer returns the code of an interruption or of typer.Exit.
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
        if hasattr(error, "show"):  # Click raises it for a wrong option or a missing argument
            error.show()
            sys.exit(int(ExitCode.BAD_USE))
        raise
