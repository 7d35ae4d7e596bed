"""The record of an embedded broker, `broker.json` in its folder: its ports and its process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mirrorlog.errors import StateDamaged
from mirrorlog.json_text import parse_json

if TYPE_CHECKING:
    import psutil

LOOPBACK: Final = "127.0.0.1"
RECORD_NAME: Final = "broker.json"
RECORD_VERSION: Final = 1
SAME_START_WITHIN_S: Final = 2.0
"""psutil counts from the kernel's boot time, which has whole seconds and follows the clock."""


def broker_folder(state_dir: Path) -> Path:
    """Return the folder of the embedded broker of a state folder."""
    return state_dir / "broker"


@dataclass(frozen=True, kw_only=True)
class BrokerRecord:
    """The content of broker.json.

    created_s: the process's start, in seconds since 1970, by psutil.
    """

    port: int
    controller_port: int
    pid: int | None = None
    created_s: float | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients, host:port."""
        return f"{LOOPBACK}:{self.port}"

    def process(self) -> psutil.Process | None:
        """Return the broker's process if it runs; never another process that has its id now."""
        if self.pid is None or self.created_s is None:
            return None
        import psutil  # most commands read the record and don't ask for the process

        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.created_s) < SAME_START_WITHIN_S
            if is_same and process.status() != psutil.STATUS_ZOMBIE:
                return process
        except psutil.NoSuchProcess:
            pass
        return None


def parse_record(text: str, where: str) -> BrokerRecord:
    """Parse the record. StateDamaged if `text` isn't one."""
    try:
        fields = parse_json(text)
        if fields.pop("version") != RECORD_VERSION:
            raise ValueError("it has another version")
        record = BrokerRecord(**fields)
        numbers = (record.port, record.controller_port, record.pid or 1)
        if (
            not all(type(number) is int and number > 0 for number in numbers)
            or max(numbers[:2]) > 65535
        ):
            raise ValueError("a number in it is impossible")
        float(record.created_s or 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateDamaged(
            f"the record of the embedded Kafka can't be read: {error}",
            where=where,
            next="Remove that file. The data beside it stays, and the broker gets new ports.",
        ) from error
    return record


def read_record(folder: Path) -> BrokerRecord | None:
    """Read the record of a broker's folder; None for a folder that never had a broker.

    Raise StateDamaged if it can't be read.
    """
    path = folder / RECORD_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError):
        text = ""
    return parse_record(text, str(path))
