"""The command line: its commands, its global options, and how an error becomes an exit code."""

from __future__ import annotations

import sys
from typing import Any

import typer

from mirrorlog.cli.support.completing import prepare_completion
from mirrorlog.cli.support.global_options import GivenOptions, read_global_options
from mirrorlog.cli.support.lazy_commands import LazyCommand, lazy_group
from mirrorlog.cli.support.output import Output, OutputClosed, report_defect, report_error
from mirrorlog.errors import BadUse, ExitCode, MirrorlogError, exit_code_of

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
        "topics",
        f"{_PACKAGE}.topics",
        "Create mirrorlog's topics, list them, and print their events.",
    ),
    LazyCommand(
        "volume",
        f"{_PACKAGE}.volume",
        "Create, list, group, grow, move, renew and retire mirrored volumes.",
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
        "status",
        f"{_PACKAGE}.status",
        "Show every secondary, site, host and worker of the node, and what isn't well.",
    ),
    LazyCommand(
        "check",
        f"{_PACKAGE}.check",
        "Check everything, for monitoring: exit 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.",
    ),
    LazyCommand(
        "dashboard",
        f"{_PACKAGE}.dashboard",
        "Serve a web page that shows every volume at every site, until stopped.",
    ),
    LazyCommand(
        "verify",
        f"{_PACKAGE}.verify",
        "Compare a secondary with its primary by digests, while hosts write and the site copies.",
    ),
    LazyCommand(
        "promote",
        f"{_PACKAGE}.promote",
        "Make the secondary of a site the primary. Run it there, where the secondary is.",
    ),
    LazyCommand(
        "divergence",
        f"{_PACKAGE}.divergence",
        "List what the hosts of both sides wrote since two copies of a volume parted.",
    ),
    LazyCommand(
        "rejoin",
        f"{_PACKAGE}.rejoin",
        "Let a former primary follow the new one. Run it on the former primary's machine.",
    ),
    LazyCommand(
        "failback",
        f"{_PACKAGE}.failback",
        "Make a site's secondary the primary in the planned order, without loss.",
    ),
    LazyCommand(
        "changed", f"{_PACKAGE}.changed", "List the blocks of a volume that changed in a range."
    ),
    LazyCommand(
        "audit",
        f"{_PACKAGE}.audit",
        "Say who wrote what and when, and prove that nothing of it was altered.",
    ),
    LazyCommand("command", f"{_PACKAGE}.command", "Send tracking commands by hand."),
    LazyCommand(
        "import",
        f"{_PACKAGE}.import_",
        "Track a volume from recordings and dirty maps of other tools (docs/import.md).",
    ),
    LazyCommand(
        "backup",
        f"{_PACKAGE}.backup",
        "Keep points in time of volumes, apart from them, each restorable alone.",
    ),
    LazyCommand(
        "restore",
        f"{_PACKAGE}.restore",
        "Restore a volume, or files of it, out of a point of its backups.",
    ),
    LazyCommand(
        "archive",
        f"{_PACKAGE}.archive",
        "Archive history in Parquet files, before Kafka drops it.",
    ),
    LazyCommand(
        "sql",
        f"{_PACKAGE}.sql",
        "Ask in SQL (DuckDB's) what hosts wrote, over archive and topic.",
    ),
    LazyCommand("log", f"{_PACKAGE}.log", "Show the tracking log, and check it."),
    LazyCommand(
        "config",
        f"{_PACKAGE}.config",
        "Show the settings and where they come from, and check them.",
    ),
    LazyCommand(
        "doctor",
        f"{_PACKAGE}.doctor",
        "Look for what breaks mirrorlog on this machine and its cluster. Change nothing.",
    ),
    LazyCommand(
        "acl", f"{_PACKAGE}.acl", "Print the Kafka ACLs that each role needs, or create them."
    ),
    LazyCommand(
        "completion",
        f"{_PACKAGE}.completion",
        "Print a script with which a shell completes commands and options.",
    ),
    LazyCommand(
        "man",
        f"{_PACKAGE}.man",
        "Write a man page of each command into a folder, which is made if it isn't there.",
    ),
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


app.callback()(read_global_options)


def main() -> None:
    """Run the command that sys.argv names, and exit with its code (errors.ExitCode).

    Every command ends here. An error that mirrorlog doesn't raise on purpose leaves with its
    traceback.
    """
    prepare_completion()
    given = GivenOptions(sys.argv[1:])
    try:
        # Without standalone mode, Typer returns the code of an interruption or of typer.Exit.
        code = app(standalone_mode=False, obj=given)
        sys.exit(code if isinstance(code, int) else int(ExitCode.OK))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(int(ExitCode.INTERRUPTED))
    except OutputClosed:
        sys.exit(int(ExitCode.FAILED))
    except MirrorlogError as error:
        report_error(error, as_json=given.json, verbose=given.verbose)
        sys.exit(int(exit_code_of(error)))
    except Exception as error:
        if _is_interruption(error):
            sys.exit(int(ExitCode.INTERRUPTED))
        if hasattr(error, "format_message"):  # Click raises it for a wrong command line
            _report_usage(error, as_json=given.json)
            sys.exit(int(ExitCode.BAD_USE))
        report_defect(error, as_json=given.json)
        raise


def _is_interruption(error: BaseException) -> bool:
    """Return whether Ctrl-C caused the error.

    Compiled libraries that call Python raise an error of their own from what a call raised.
    """
    cause = error.__cause__
    return isinstance(cause, KeyboardInterrupt) or (cause is not None and _is_interruption(cause))


def _report_usage(error: Any, *, as_json: bool) -> None:
    """Print Click's error about the command line, and with `as_json` the JSON object, too."""
    if as_json:
        path = error.ctx.command_path if error.ctx is not None else "mirrorlog"
        shows_help = type(error).__name__ == "NoArgsIsHelpError"
        what = "no command is named" if shows_help else error.format_message()
        bad_use = BadUse(what, where=path, next=f"See `{path} --help`.")
        Output(json=True).print_json(bad_use.as_message())
    error.show()
