"""The checkpoint of a replay: a small file in the state folder, replaced as a whole."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from typing import Final

from mirrorlog.errors import BadUse, StateDamaged
from mirrorlog.json_text import parse_json
from mirrorlog.ports.folders import StateFolder, replace_file

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The progress of a replay of `trace`.

    The requests before number `next_request` are durable on the primaries. `writes` of them were
    writes, of `bytes_written` bytes in all.
    """

    trace: str
    next_request: int = 0
    writes: int = 0
    bytes_written: int = 0


def load_checkpoint(folder: StateFolder, name: str, trace: str) -> Checkpoint:
    """Return the checkpoint in the file `name`; the beginning of `trace` if there is no file.

    StateDamaged if the file fails its checksum or has an unknown version; BadUse if it belongs to
    another trace.
    """
    data = folder.read(name)
    if data is None:
        return Checkpoint(trace)
    try:
        outer = parse_json(data)
        if outer["version"] != VERSION or outer["crc32"] != _checksum(outer["checkpoint"]):
            raise ValueError("version or checksum")
        checkpoint = Checkpoint(**outer["checkpoint"])
    except (ValueError, TypeError, KeyError) as error:
        raise StateDamaged(
            "the checkpoint of a replay is damaged, or of an unknown version",
            where=name,
            next="Remove it. The replay then starts from the beginning, with the same result.",
        ) from error
    if checkpoint.trace != trace:
        raise BadUse(
            f"the checkpoint belongs to the trace {checkpoint.trace}, not to {trace}",
            where=name,
            next="Continue that trace, or use another state folder.",
        )
    return checkpoint


def save_checkpoint(folder: StateFolder, name: str, checkpoint: Checkpoint) -> None:
    """Durably replace the file `name` by one with `checkpoint`."""
    fields = asdict(checkpoint)
    content = {"version": VERSION, "crc32": _checksum(fields), "checkpoint": fields}
    replace_file(folder, name, json.dumps(content).encode()).close()


def _checksum(fields: object) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())
