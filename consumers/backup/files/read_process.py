"""The process that reads: `python -m mirrorlog.consumers.backup.files.read_process`.

It takes a request on stdin (ReadRequest as a line of JSON) and writes frames of records to stdout.
Before it reads the first byte of an image it limits itself: its memory, its time, and it may write
no file. An error of its own is the last frame, with exit code 1.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from mirrorlog.consumers.backup.files.records import encode_error, encode_record
from mirrorlog.consumers.backup.qcow2.image_digests import ImageDigests
from mirrorlog.consumers.file_names.scan import limit_process
from mirrorlog.errors import MirrorlogError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """What to read, and how much it may cost.

    images: paths of the images of a point, the newest first. image_ids: their ids, as the manifests
    name them; None if one is missing. digests: fields of ImageDigests for each image; None for one
    whose manifest is missing. size_bytes: of the volume. paths: what is wanted, with a
    character for each byte (Latin-1). partition: its number, or None. memory_bytes, cpu_s: as in
    ScanRequest.
    """

    images: Sequence[str]
    image_ids: Sequence[str] | None
    digests: Sequence[Mapping[str, Any] | None]
    size_bytes: int
    paths: Sequence[str]
    partition: int | None
    memory_bytes: int
    cpu_s: int


def main() -> int:
    """Answer one request. Return the exit code."""
    request = ReadRequest(**json.loads(sys.stdin.buffer.readline()))
    os.putenv("TZ", "UTC")  # FAT keeps the time of the clock on the wall
    time.tzset()
    limit_process(memory_bytes=request.memory_bytes, cpu_s=request.cpu_s)
    try:
        _answer(request)
    except MirrorlogError as error:
        sys.stdout.buffer.write(encode_error(error))
        sys.stdout.buffer.flush()
        return 1
    sys.stdout.buffer.flush()
    return 0


def _answer(request: ReadRequest) -> None:
    from mirrorlog.consumers.backup.files.tree_reader import tree_records
    from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
    from mirrorlog.consumers.file_names.image_reading import CachedDevice

    image_ids = request.image_ids
    with ChainReader(
        [Path(path) for path in request.images],
        image_ids=None if image_ids is None else [UUID(text) for text in image_ids],
        size_bytes=request.size_bytes,
        digests=[None if fields is None else _digests(fields) for fields in request.digests],
    ) as device:
        paths = [path.encode("latin-1") for path in request.paths]
        for record in tree_records(CachedDevice(device), paths, request.partition):
            sys.stdout.buffer.write(encode_record(record))


def _digests(fields: Mapping[str, Any]) -> ImageDigests:
    lists = {name: tuple(fields[name]) for name in ("tables", "data")}
    return ImageDigests(**{**fields, **lists})


if __name__ == "__main__":
    sys.exit(main())
