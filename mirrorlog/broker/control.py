"""The status of a folder's broker, and its end, whichever process started it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import psutil

from mirrorlog.broker.embedded import answering_cluster_id, end_process, silent_client
from mirrorlog.broker.folder import BrokerFolder

STATUS_WITHIN_S: Final = 2.0


class BrokerState(StrEnum):
    """The state of a folder's broker."""

    RUNNING = "running"
    NOT_ANSWERING = "not_answering"
    STOPPED = "stopped"


@dataclass(frozen=True)
class BrokerStatus:
    """The status of a broker. The fields about its process are None if it doesn't run."""

    state: BrokerState
    bootstrap_servers: str | None
    pid: int | None
    started_at: str | None
    """RFC 3339, UTC."""
    resident_bytes: int | None
    state_dir: str
    log: str


def broker_status(state_dir: Path) -> BrokerStatus:
    """Return the status of the broker in `state_dir`.

    Raise StateDamaged if the folder's record can't be read.
    """
    folder = BrokerFolder(state_dir)
    record = folder.record()
    process = record.process() if record else None
    with contextlib.suppress(psutil.NoSuchProcess):
        if record and process:
            resident_bytes = process.memory_info().rss
            started_at = datetime.fromtimestamp(process.create_time(), UTC)
            answer = answering_cluster_id(silent_client(record.bootstrap_servers), STATUS_WITHIN_S)
            return BrokerStatus(
                state=BrokerState.RUNNING
                if answer == folder.cluster_id()
                else BrokerState.NOT_ANSWERING,
                bootstrap_servers=record.bootstrap_servers,
                pid=process.pid,
                started_at=started_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                resident_bytes=resident_bytes,
                state_dir=str(folder.path),
                log=str(folder.log_file),
            )
    return BrokerStatus(
        state=BrokerState.STOPPED,
        bootstrap_servers=None,
        pid=None,
        started_at=None,
        resident_bytes=None,
        state_dir=str(folder.path),
        log=str(folder.log_file),
    )


def stop_broker(state_dir: Path, deadline_s: float = 30.0) -> int | None:
    """Stop the broker in `state_dir`; kill it at the deadline.

    Return the id of the stopped process; None if no broker runs.
    """
    record = BrokerFolder(state_dir).record()
    process = record.process() if record else None
    if process is None:
        return None
    end_process(process, deadline_s)
    return process.pid
