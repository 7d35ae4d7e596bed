"""The Python call that runs a node can be imported without what only a running node needs."""

from __future__ import annotations

import subprocess
import sys

# what is imported | modules that it must not load
IMPORTS = """
import mirrorlog.streams | faust mode aiokafka confluent_kafka rocksdict numpy fastavro pydantic
from mirrorlog.streams import run_node | faust mode aiokafka
from mirrorlog.streams.wiring import build_node | faust mode aiokafka
""".strip().splitlines()


def test_importing_the_call_loads_neither_faust_nor_more_than_is_needed() -> None:
    for case in IMPORTS:
        statement, modules = (part.strip() for part in case.split("|"))
        script = f"import sys; {statement}; print(*sorted(set(sys.argv[1:]) & set(sys.modules)))"
        done = subprocess.run(
            [sys.executable, "-c", script, *modules.split()],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == "", statement


def test_a_name_that_the_package_does_not_export_is_an_attribute_error() -> None:
    import mirrorlog.streams

    assert not hasattr(mirrorlog.streams, "run_nodes")
    assert mirrorlog.streams.__all__ == ["run_node"]
