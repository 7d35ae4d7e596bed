"""A volume that a host exports over NBD, beside the other parts of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deadlines import DEADLINE_S
from running import run_cli

from mirrorlog.cli.demo.run import Run


@contextmanager
def exported(run: Run, size_bytes: int) -> Iterator[str]:
    """Create the volume `base`, and yield the URI under which a host exports it."""
    primary = run.folder / "base.img"
    primary.touch()
    with primary.open("r+b") as file:
        file.truncate(size_bytes)
    created = run_cli(
        run.settings,
        "volume",
        "create",
        "base",
        "--size",
        str(size_bytes),
        "--primary",
        str(primary),
    )
    assert created.returncode == 0, created.stderr
    arguments = ["host", "serve", "base", "--socket", str(run.folder / "s"), "--through", "filter"]
    host = run.start_part("host", arguments)
    ready = run.wait_for(lambda m: m.part == "host" and m.message_type == "ready", DEADLINE_S)
    try:
        yield str(ready["uri"])
    finally:
        del run.parts["host"]
        host.kill()
