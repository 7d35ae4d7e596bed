"""The output of a command: text for people and JSON for programs, never both on one stream."""

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
    """A command's output. With `json`, JSON goes to stdout and text goes to stderr.

    Without `json`, text goes to stdout and no JSON is printed. With `quiet`, no text is printed.
    """

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
        """Print a line for people."""
        self.console.print(text, markup=False)

    def print_message(self, message_type: str, fields: Mapping[str, Any]) -> None:
        """Print one line of JSON with its `message_type` and `fields` if --json is given."""
        if self.json:
            self.print_json({"message_type": message_type, **fields})

    def print_json(self, fields: Mapping[str, Any]) -> None:
        """Print `fields` as one line of JSON if --json is given.

        Raise ValueError if one is NaN or infinite.
        """
        if self.json:
            sys.stdout.write(json.dumps(fields, allow_nan=False) + "\n")
            sys.stdout.flush()


def report_error(error: BaseException, *, as_json: bool, verbose: bool) -> None:
    """Print `error` on stderr as text, and with `as_json` on stdout as the last JSON object.

    verbose: print its traceback first. Prints nothing else for an error that isn't a
    MirrorlogError.
    """
    if verbose:
        traceback.print_exception(error)
    if isinstance(error, MirrorlogError):
        Output(json=as_json).print_json(error.as_message())
        sys.stderr.write(f"mirrorlog: {error}\n")
