"""The Python call that runs a node: what importing it loads, and what an early error leaves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from deadlines import DEADLINE_S

from mirrorlog.errors import KafkaFailed
from mirrorlog.settings import Settings
from mirrorlog.streams import run_node

NO_BROKER = "127.0.0.1:1"

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


def test_a_node_that_cannot_start_raises_and_leaves_its_address_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    settings = Settings(
        state_dir=tmp_path, bootstrap_servers=NO_BROKER, node_http=address, patience_s=1
    )
    errors = []  # holds the frames of the first call: no garbage collector closes its socket
    for _ in range(2):
        with pytest.raises(KafkaFailed) as error:
            run_node(settings)
        errors.append(error)


# The settings of Faust on which an invariant stands, and the environment of another program.
OVERRULED = """
import sys
from pathlib import Path
from mirrorlog.settings import Settings
sys.argv = sys.argv[:1]
from mirrorlog.streams.faust_worker.app import make_app
settings = Settings(state_dir=Path("x"), kafka={"isolation.level": "read_committed"})
conf = make_app(settings, group="g", member="m", url=None).conf
print(conf.processing_guarantee.value, conf.producer_acks, conf.consumer_auto_offset_reset)
"""


def test_neither_the_environment_nor_a_client_setting_overrules_the_nodes_client(
    tmp_path: Path,
) -> None:
    foreign = {
        "PROCESSING_GUARANTEE": "exactly_once",  # Faust reads committed then
        "PRODUCER_ACKS": "0",
        "CONSUMER_AUTO_OFFSET_RESET": "latest",
    }
    done = subprocess.run(
        [sys.executable, "-c", OVERRULED],
        capture_output=True, text=True, timeout=DEADLINE_S, check=True, cwd=tmp_path,
        env={**os.environ, **foreign},
    )  # fmt: skip
    assert done.stdout.split() == ["at_least_once", "-1", "earliest"]
