"""The command line in the process of the test."""

from __future__ import annotations

import contextlib
import io
import sys
from unittest import mock

from mirrorlog.cli.main import main


def run_main(arguments: list[str]) -> tuple[int, str, str]:
    """Run `mirrorlog` with these arguments; return its exit code, stdout and stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["mirrorlog", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()
