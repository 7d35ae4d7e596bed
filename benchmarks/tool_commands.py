"""Runs commands of other people's tools to their end."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from pinned import ProgramFailed


def run_command(line: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a command; return what it prints. Raise ProgramFailed with its stderr if it fails.

    environment: None for that of this process.
    """
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise ProgramFailed(f"{' '.join(line)}: {done.stderr.strip()}")
    return done.stdout
