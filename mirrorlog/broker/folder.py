"""The folder of an embedded broker: its files, and the lock that lets one broker use it.

lock                locked by the broker's process while it runs
broker.json         the record: its ports, and the process that was started last
server.properties   written at each start
log4j2.properties   written at each start
kafka-version       the newest Kafka that has used the data
data/               Kafka's data
log/                kafka.log (bounded, rolling), output.log (what Java printed, of the last start)
tmp/                native libraries that Java unpacked since the last start
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from mirrorlog.broker.files import open_lock_file, replace_text
from mirrorlog.broker.kafka_versions import BEFORE_RECORDS
from mirrorlog.broker_record import RECORD_NAME, RECORD_VERSION, BrokerRecord, read_record
from mirrorlog.errors import KafkaFailed, StateDamaged

TAIL_BYTES: Final = 64 * 1024
LAST_LINES: Final = 6


def server_properties(*, port: int, controller_port: int) -> str:
    """Return Kafka's configuration."""
    template = files("mirrorlog.broker").joinpath("server.properties").read_text(encoding="utf-8")
    return Template(template).substitute(port=port, controller_port=controller_port)


class BrokerFolder:
    """The paths and small files of a broker's folder. Making the object touches no file."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.log_file = self.path / "log" / "kafka.log"
        self.output_file = self.path / "log" / "output.log"
        self.meta_file = self.path / "data" / "meta.properties"
        self._version_file = self.path / "kafka-version"

    def record(self) -> BrokerRecord | None:
        """Read the record; None for a folder that never had a broker."""
        return read_record(self.path)

    def write_record(self, record: BrokerRecord) -> None:
        """Replace the record."""
        replace_text(
            self.path / RECORD_NAME, json.dumps({"version": RECORD_VERSION, **asdict(record)})
        )

    def lock(self) -> int:
        """Lock the folder. Return the open file, which the caller passes to the broker and then
        closes.

        A lock of flock(2) belongs to the open file, which a child inherits. It ends when the last
        process with the open file ends. Held by the broker's process alone, it ends exactly with
        that process, even by kill -9, and outlives the process that started the broker.

        Raise KafkaFailed if another broker uses the folder.
        """
        descriptor = open_lock_file(self.path / "lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise KafkaFailed(
                f"this folder is in use by {self._describe_holder()}",
                where=str(self.path),
                next="Stop it (`mirrorlog broker stop`), use it, or name another folder with "
                "--state-dir.",
            ) from None
        return descriptor

    def _describe_holder(self) -> str:
        with contextlib.suppress(StateDamaged):
            record = self.record()
            process = record and record.process()
            if record and process:
                return (
                    f"the embedded Kafka with process id {process.pid} at "
                    f"{record.bootstrap_servers}"
                )
        return "an embedded Kafka that is starting now"

    def write_configuration(self, record: BrokerRecord) -> None:
        """Write the files that Kafka reads at its start, and make its folders."""
        log4j = files("mirrorlog.broker").joinpath("log4j2.properties").read_text(encoding="utf-8")
        replace_text(
            self.path / "server.properties",
            server_properties(port=record.port, controller_port=record.controller_port),
        )
        replace_text(self.path / "log4j2.properties", log4j)
        (self.path / "log").mkdir(exist_ok=True)
        shutil.rmtree(self.path / "tmp", ignore_errors=True)
        (self.path / "tmp").mkdir()

    def cluster_id(self) -> str | None:
        """Return the id of the formatted data; None if the data isn't formatted.

        Kafka's formatter writes this file last. So data without it isn't formatted completely.
        """
        if not self.meta_file.is_file():
            return None
        lines = self.meta_file.read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line).get("cluster.id")

    def kafka_version(self) -> str | None:
        """Return the newest Kafka that has used the data; None if the data isn't formatted.

        Raise StateDamaged if the record of it can't be read.
        """
        if self.cluster_id() is None:
            return None
        try:
            text = self._version_file.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return BEFORE_RECORDS
        except UnicodeDecodeError:
            text = ""
        if not re.fullmatch(r"\d+(\.\d+)*", text):
            raise StateDamaged(
                "the record of the Kafka that used this folder can't be read",
                where=str(self._version_file),
                next="Write the version there, such as 4.4.0.",
            )
        return text

    def write_kafka_version(self, version: str) -> None:
        """Note which Kafka uses the data from now on."""
        replace_text(self._version_file, f"{version}\n")

    def last_log_lines(self, since_bytes: int) -> str:
        """Return a summary of Java's output, and of Kafka's log beyond `since_bytes`, in one
        line."""
        return summarize_lines([*_tail(self.output_file, 0), *_tail(self.log_file, since_bytes)])


def summarize_lines(lines: Sequence[str]) -> str:
    """Join the last lines above level INFO, or else the last lines, without frames of stack
    traces."""
    lines = [
        line.strip()
        for line in lines
        if line.strip() and not line.strip().startswith(("at ", "... "))
    ]
    problems = [line for line in lines if " INFO " not in line]
    return " | ".join((problems or lines)[-LAST_LINES:]) or "nothing"


def _tail(path: Path, since_bytes: int) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # A log that is shorter than before has rolled.
            file.seek(max(since_bytes if since_bytes <= size else 0, size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()
