"""The global options, and what they amount to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import typer

from mirrorlog.cli.support.output import Output
from mirrorlog.errors import BadUse
from mirrorlog.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of the command line."""

    settings: Settings
    output: Output
    verbose: bool


def invocation(context: typer.Context) -> Invocation:
    """The invocation that the global options made."""
    return cast(Invocation, context.obj)


def settings_from(
    config: Path | None,
    client_file: Path | None,
    client_options: Sequence[str],
    bootstrap_servers: str | None,
    state_dir: Path | None,
) -> Settings:
    """Settings from the file, the environment and the global options, the last winning."""
    overrides: dict[str, Any] = {}
    if bootstrap_servers:
        overrides["bootstrap_servers"] = bootstrap_servers
    if state_dir:
        overrides["state_dir"] = state_dir.absolute()
    settings = load_settings(config, overrides)
    from_file = _client_file(client_file) if client_file else {}
    client = {
        **settings.kafka,
        **from_file,
        **dict(_pair(option, "-X") for option in client_options),
    }
    if "bootstrap.servers" in client and not bootstrap_servers:
        settings = settings.model_copy(update={"bootstrap_servers": client["bootstrap.servers"]})
    client.pop("bootstrap.servers", None)
    return settings.model_copy(update={"kafka": client})


def _client_file(path: Path) -> dict[str, str]:
    """A client.properties file: `key=value` lines, `#` begins a comment line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadUse(f"the client's settings can't be read: {error}", where=str(path)) from error
    return dict(
        _pair(line, str(path))
        for line in lines
        if line.strip() and not line.lstrip().startswith("#")
    )


def _pair(text: str, where: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadUse(
            f"'{key[:40]}' isn't key=value",
            where=where,
            next="Use librdkafka's names, as in -X acks=all.",
        )
    return key.strip(), value.strip()
