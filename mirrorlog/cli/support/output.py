"""What a command prints: text for people, JSON for programs, never mixed on one stream."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from mirrorlog.errors import MirrorlogError


@dataclass(frozen=True, slots=True)
class Output:
    """With `json`, stdout holds JSON and nothing else, and people's text goes to stderr."""

    json: bool = False
    quiet: bool = False
    no_color: bool = False
    console: Console = field(init=False)

    def __post_init__(self) -> None:
        stream = sys.stderr if self.json else sys.stdout
        console = Console(
            file=stream, quiet=self.quiet, no_color=self.no_color, highlight=False, soft_wrap=True
        )
        object.__setattr__(self, "console", console)

    def print_text(self, text: str) -> None:
        """A line for people."""
        self.console.print(text, markup=False)

    def print_message(self, message_type: str, fields: Mapping[str, Any]) -> None:
        """A line of JSON for programs; nothing without --json."""
        if self.json:
            self.print_json({"message_type": message_type, **fields})

    def print_json(self, fields: Mapping[str, Any]) -> None:
        """One JSON object; nothing without --json."""
        if self.json:
            sys.stdout.write(json.dumps(fields, allow_nan=False) + "\n")
            sys.stdout.flush()


def report_error(error: BaseException, *, as_json: bool, verbose: bool) -> None:
    """Print `error` on stderr for people, and with `as_json` as the last JSON object on stdout.

    With `verbose`, its traceback precedes it. An error that mirrorlog doesn't raise on purpose
    is printed as a traceback or not at all.
    """
    if verbose:
        traceback.print_exception(error)
    if isinstance(error, MirrorlogError):
        Output(json=as_json).print_json(error.as_message())
        sys.stderr.write(f"mirrorlog: {error}\n")
