"""How far a replay has come: a small file, replaced whole."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from typing import Final

from mirrorlog.errors import BadUse, StateDamaged
from mirrorlog.ports.folders import StateFolder, replace_file

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The first `next_request` requests of `trace` are on the primaries, durably; `writes` of them were writes."""

    trace: str
    next_request: int = 0
    writes: int = 0
    bytes_written: int = 0


def load_checkpoint(folder: StateFolder, name: str, trace: str) -> Checkpoint:
    """The checkpoint in the file; the beginning where there is none.

    StateDamaged where it fails its checksum or has an unknown version, BadUse where it is of another trace.
    """
    data = folder.read(name)
    if data is None:
        return Checkpoint(trace)
    try:
        outer = json.loads(data)
        if outer["version"] != VERSION or outer["crc32"] != _checksum(outer["checkpoint"]):
            raise ValueError("version or checksum")
        found = Checkpoint(**outer["checkpoint"])
    except (ValueError, TypeError, KeyError) as error:
        raise StateDamaged(
            "the checkpoint of a replay is damaged, or of an unknown version",
            where=name,
            next="Remove it: the replay begins anew, and ends with the same volumes.",
        ) from error
    if found.trace != trace:
        raise BadUse(
            f"the checkpoint is of the trace {found.trace}, not of {trace}",
            where=name,
            next="Go on with that trace, or use another state folder.",
        )
    return found


def save_checkpoint(folder: StateFolder, name: str, checkpoint: Checkpoint) -> None:
    """Replaces the file, durably."""
    fields = asdict(checkpoint)
    content = {"version": VERSION, "crc32": _checksum(fields), "checkpoint": fields}
    replace_file(folder, name, json.dumps(content).encode()).close()


def _checksum(fields: object) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())
