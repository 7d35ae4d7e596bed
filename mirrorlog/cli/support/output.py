"""The output of a command: text for people and JSON for programs, never both on one stream."""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TextIO

from mirrorlog.errors import MirrorlogError, in_words, name_in_words

if TYPE_CHECKING:
    from rich.console import Console

    from mirrorlog.cli.support.global_options import GivenOptions


class OutputClosed(Exception):
    """The reader of the output has closed it, as `| head` does."""


@dataclass(frozen=True)
class Output:
    """A command's output. With `json`, JSON goes to stdout and text goes to stderr.

    Without `json`, text goes to stdout and no JSON is printed. With `quiet`, no text is printed.
    Every print raises OutputClosed if its reader has closed the stream.
    """

    json: bool = False
    quiet: bool = False
    no_color: bool = False

    @classmethod
    def of(cls, given: GivenOptions) -> Self:
        """Return the output that the global options ask for."""
        quiet, no_color = (bool(given.values.get(name)) for name in ("quiet", "no_color"))
        return cls(json=given.json, quiet=quiet, no_color=no_color)

    @cached_property
    def console(self) -> Console:
        """The terminal, or what stands for it, of the text."""
        from rich.console import Console

        return Console(
            file=self._text_stream,
            quiet=self.quiet,
            no_color=self.no_color,
            highlight=False,
            soft_wrap=True,
        )

    @property
    def _text_stream(self) -> TextIO:
        return sys.stderr if self.json else sys.stdout

    @property
    def width(self) -> int | None:
        """The columns of the terminal that shows the text; None if it isn't a terminal."""
        stream = self._text_stream
        return shutil.get_terminal_size().columns if stream.isatty() else None

    def print_text(self, text: str) -> None:
        """Print a line for people."""
        if not self.quiet:
            _write(self._text_stream, text + "\n")

    def print_note(self, text: str) -> None:
        """Print a line for people on stderr, where it isn't part of the answer."""
        if not self.quiet:
            _write(sys.stderr, text + "\n")

    def print_message(self, message_type: str, fields: Mapping[str, Any]) -> None:
        """Print one line of JSON with its `message_type` and `fields` if --json is given."""
        if self.json:
            self.print_json({"message_type": message_type, **fields})

    def print_json(self, fields: Mapping[str, Any]) -> None:
        """Print `fields` as one line of JSON if --json is given.

        Raise ValueError if one is NaN or infinite.
        """
        if self.json:
            _write(sys.stdout, json.dumps(fields, allow_nan=False) + "\n")


def _write(stream: TextIO, text: str) -> None:
    """Write and flush. Raise OutputClosed if the reader has closed the stream."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError as error:
        discard_the_rest(stream)
        raise OutputClosed from error


def write_pieces(pieces: Iterable[str], *, quiet: bool) -> None:
    """Write the pieces to stdout as they come. A closed pipe (`| head`) ends it without an error.

    quiet: consume the pieces, so that their errors are raised, and write nothing.
    """
    try:
        for piece in pieces:
            if not quiet:
                sys.stdout.write(piece)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_the_rest(sys.stdout)


def discard_the_rest(stream: TextIO) -> None:
    """Let what is written to a closed stream from now on go nowhere.

    Python flushes stdout once more at its end (docs.python.org, "Note on SIGPIPE").
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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


def report_defect(error: Exception, *, as_json: bool) -> None:
    """Print the last JSON object with `as_json` for an error that mirrorlog doesn't raise on
    purpose. The caller lets the error leave with its traceback."""
    defect = MirrorlogError(
        f"mirrorlog has a defect: {name_in_words(type(error))}: {in_words(error)}",
        next="Report it with the traceback on stderr.",
    )
    Output(json=as_json).print_json({**defect.as_message(), "code": "Defect"})
