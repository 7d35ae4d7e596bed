"""One call of the command line: what its global options amount to."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import typer

from mirrorlog.cli.support.global_options import given_options
from mirrorlog.cli.support.log_lines import set_up_logging
from mirrorlog.cli.support.output import Output
from mirrorlog.errors import BadUse
from mirrorlog.secret_files import is_secret_name, with_secrets_from_files
from mirrorlog.settings import Settings, load_settings

log = logging.getLogger("mirrorlog.cli")

_NAME: Final = re.compile(r"[A-Za-z0-9._-]*")
CONNECT_WITHIN_S: Final = 1.25
"""The whole answer then comes within 3 s: the rest is for the start of the process."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of the command line.

    verbose: print log lines, and tracebacks of errors.
    """

    settings: Settings
    output: Output
    verbose: bool


def invocation(context: typer.Context, *, waits: bool = False) -> Invocation:
    """Return what the global options of the call amount to. The first call sets up logging.

    waits: the command waits for Kafka when it starts. Any other gives up if nothing connects within
        CONNECT_WITHIN_S.
    Errors: those of settings_from().
    """
    given = given_options(context)
    if given.invocation is None:
        set_up_logging(verbose=given.verbose)
        values = given.values
        settings = settings_from(
            values.get("config"),
            values.get("client_file"),
            values.get("client_options") or (),
            values.get("bootstrap_servers"),
            values.get("state_dir"),
        )
        given.invocation = Invocation(settings, Output.of(given), given.verbose)
    call = cast(Invocation, given.invocation)
    connect_within_s = None if waits else CONNECT_WITHIN_S
    return replace(call, settings=call.settings.with_connect_within_s(connect_within_s))


def settings_from(
    config: Path | None,
    client_file: Path | None,
    client_options: Sequence[str],
    bootstrap_servers: str | None,
    state_dir: Path | None,
    *,
    loaded: Settings | None = None,
) -> Settings:
    """Return the settings of the global options, on top of the environment and the config file.

    config: a TOML file of settings. client_file, client_options: Kafka client settings; the
    options win over the file, and both over `kafka` in the settings. loaded: the settings without
    these two, if they are loaded already.
    Errors: BadUse if a file can't be read, or an option isn't KEY=VALUE.
    """
    overrides: dict[str, Any] = {}
    if state_dir:
        overrides["state_dir"] = state_dir.absolute()
    settings = loaded or load_settings(config, overrides)
    from_file = _read_client_file(client_file) if client_file else {}
    from_options = dict(_split_pair(option, "-X") for option in client_options)
    _refuse_secrets(from_options)
    try:
        given = with_secrets_from_files({**from_file, **from_options})
    except ValueError as error:
        where = f"-X, {client_file}" if client_file else "-X"
        raise BadUse(str(error), where=where, next="Correct it.") from None
    client = {**settings.kafka, **given}
    settings = settings.model_copy(update={"kafka": client})
    if bootstrap_servers:
        settings = settings.with_given_servers(bootstrap_servers, "--bootstrap-servers")
    elif "bootstrap.servers" in {**from_file, **from_options}:
        source = "-X" if "bootstrap.servers" in from_options else client_file
        servers = client["bootstrap.servers"]
        settings = settings.with_given_servers(servers, f"bootstrap.servers in {source}")
    log.info("Kafka's servers are %s: %s", settings.servers.addresses, settings.servers.chosen_by())
    return settings


def _read_client_file(path: Path) -> dict[str, str]:
    """Read a client.properties file: `key=value` lines; a line that begins with # is a comment."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        what = f"the client's settings can't be read: {error.strerror}"
        raise BadUse(what, where=str(path)) from error
    except UnicodeDecodeError:
        what = "the client's settings can't be read: they aren't text in UTF-8"
        raise BadUse(what, where=str(path)) from None
    return dict(
        _split_pair(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    )


def _refuse_secrets(options: Mapping[str, str]) -> None:
    """Raise BadUse for a secret among options: every user of the machine sees them (proc(5))."""
    for name in options:
        if is_secret_name(name):
            raise BadUse(
                f"{name} is a secret, and every user of this machine sees the options of a process",
                where="-X",
                next=f"Write -X {name}_file=FILE, put it into a file for -F, or set MIRRORLOG_KAFKA"
                " in the environment.",
            )


def _beginning(text: str) -> str:
    """Return the name that a text begins with: the rest may be a secret."""
    match = _NAME.match(text.strip())
    return match.group()[:40] if match else ""


def _split_pair(text: str, where: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadUse(
            f"'{_beginning(text)}…' isn't key=value",
            where=where,
            next="Use librdkafka's names, as in -X acks=all.",
        )
    return key.strip(), value.strip()
