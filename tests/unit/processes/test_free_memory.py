"""The allocator that Arrow uses in an archiver."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mirrorlog.settings import inherited_environment

VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"


@pytest.mark.parametrize(("said", "used"), [("", "system"), ("jemalloc", "jemalloc")])
def test_an_archivers_arrow_takes_memory_from_the_c_library_unless_told_otherwise(
    said: str, used: str
) -> None:
    code = (
        "import sys, mirrorlog.cli.commands.archive\n"
        "assert 'pyarrow' not in sys.modules\n"
        "from mirrorlog.processes.free_memory import use_system_memory\n"
        "use_system_memory()\n"
        "import pyarrow as pa\n"
        "print(pa.default_memory_pool().backend_name)"
    )
    environment = dict(inherited_environment())
    environment.pop(VARIABLE, None)
    if said:
        environment[VARIABLE] = said
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert ended.stdout.strip() == used
