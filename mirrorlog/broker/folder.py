"""The folder of an embedded broker: what is where, what it remembers, and the lock that lets one broker use it.

lock                held by the broker's process while it runs
broker.json         its ports, and the process that was started last
server.properties   written at each start
log4j2.properties   written at each start
data/               Kafka's own
log/                kafka.log (bounded, rolling), output.log (what Java itself says, of the last start)
tmp/                native libraries that Java unpacks, of the last start
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

import psutil

from mirrorlog.broker.files import open_lock_file, replace_text
from mirrorlog.broker.ports import LOOPBACK
from mirrorlog.errors import KafkaFailed, StateDamaged

RECORD_VERSION: Final = 1
SAME_START_WITHIN_S: Final = 2.0
"""The kernel's time of boot, from which psutil counts, is read to the second and follows corrections of the clock."""
TAIL_BYTES: Final = 64 * 1024
LAST_LINES: Final = 6


@dataclass(frozen=True)
class BrokerRecord:
    """What the folder remembers. `created_s`: when the process was made, in seconds since 1970, as psutil tells it."""

    port: int
    controller_port: int
    pid: int | None = None
    created_s: float | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect."""
        return f"{LOOPBACK}:{self.port}"

    def process(self) -> psutil.Process | None:
        """The broker's process while it runs; never another one that was given its number since."""
        if self.pid is None or self.created_s is None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created_s) < SAME_START_WITHIN_S
            if same and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


def parse_record(text: str, where: str) -> BrokerRecord:
    """The record in `text`; StateDamaged where it is none."""
    try:
        fields = json.loads(text)
        if fields.pop("version") != RECORD_VERSION:
            raise ValueError("of another version")
        record = BrokerRecord(**fields)
        numbers = (record.port, record.controller_port, record.pid or 1)
        if (
            not all(type(number) is int and number > 0 for number in numbers)
            or max(numbers[:2]) > 65535
        ):
            raise ValueError("its numbers can't be")
        float(record.created_s or 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateDamaged(
            f"what the embedded Kafka remembers of itself can't be read: {error}",
            where=where,
            next="Remove that file: the data beside it is kept, the broker gets new ports.",
        ) from error
    return record


def server_properties(port: int, controller_port: int) -> str:
    """Kafka's configuration."""
    template = files("mirrorlog.broker").joinpath("server.properties").read_text(encoding="utf-8")
    return Template(template).substitute(port=port, controller_port=controller_port)


class BrokerFolder:
    """Paths and small files under `path`; nothing is touched before a method asks for it."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.log_file = self.path / "log" / "kafka.log"
        self.output_file = self.path / "log" / "output.log"
        self.meta_file = self.path / "data" / "meta.properties"

    def record(self) -> BrokerRecord | None:
        """What the folder remembers; None for a folder that never had a broker."""
        path = self.path / "broker.json"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            text = ""
        return parse_record(text, str(path))

    def remember(self, record: BrokerRecord) -> None:
        """Replace what the folder remembers."""
        replace_text(
            self.path / "broker.json", json.dumps({"version": RECORD_VERSION, **asdict(record)})
        )

    def lock(self) -> int:
        """The folder's lock, as an open file to be handed to the broker and then closed here.

        flock(2) belongs to the open file, which a child inherits: it is let go when the last process that has it open
        is gone. Held by the broker's process alone it ends exactly with it, also by kill -9, and it outlives whoever
        started a broker that runs on its own.
        """
        descriptor = open_lock_file(self.path / "lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise KafkaFailed(
                f"this folder is in use by {self._holder()}",
                where=str(self.path),
                next="Stop it (`mirrorlog broker stop`), use it as it is, or give another folder (--state-dir).",
            ) from None
        return descriptor

    def _holder(self) -> str:
        with contextlib.suppress(StateDamaged):
            record = self.record()
            process = record and record.process()
            if record and process:
                return f"the embedded Kafka with process id {process.pid} at {record.bootstrap_servers}"
        return "an embedded Kafka that is just being started"

    def write_configuration(self, record: BrokerRecord) -> None:
        """Write what Kafka reads at its start, and make the folders it writes to."""
        log4j = files("mirrorlog.broker").joinpath("log4j2.properties").read_text(encoding="utf-8")
        replace_text(
            self.path / "server.properties", server_properties(record.port, record.controller_port)
        )
        replace_text(self.path / "log4j2.properties", log4j)
        (self.path / "log").mkdir(exist_ok=True)
        shutil.rmtree(self.path / "tmp", ignore_errors=True)
        (self.path / "tmp").mkdir()

    def cluster_id(self) -> str | None:
        """The id under which the data was formatted; None for a folder without data.

        Kafka's formatter writes this file last: data without it is not yet formatted.
        """
        if not self.meta_file.is_file():
            return None
        lines = self.meta_file.read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line).get("cluster.id")

    def last_log_lines(self, since_bytes: int) -> str:
        """What Java said, and what Kafka logged beyond `since_bytes`, in a few lines joined to one."""
        return summarize_lines([*_tail(self.output_file, 0), *_tail(self.log_file, since_bytes)])


def summarize_lines(lines: Sequence[str]) -> str:
    """The last lines that complain, or else the last lines, without the frames of stack traces."""
    lines = [
        line.strip()
        for line in lines
        if line.strip() and not line.strip().startswith(("at ", "... "))
    ]
    complaints = [line for line in lines if " INFO " not in line]
    return " | ".join((complaints or lines)[-LAST_LINES:]) or "nothing"


def _tail(path: Path, since_bytes: int) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # A log that is shorter than it was has rolled.
            file.seek(max(since_bytes if since_bytes <= size else 0, size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()
