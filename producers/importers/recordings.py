"""Recordings of block I/O, in the formats that the replay reads (mirrorlog.producers.traces): their writes become WRITES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from mirrorlog.errors import BadUse
from mirrorlog.producers.importers.change import Change, ChangeKind, ImportSource
from mirrorlog.producers.traces import RequestKind, TracedRequest, open_trace

FILETIME_EPOCH_US: Final = 11_644_473_600_000_000
"""From 1601-01-01 to 1970-01-01 (MS-DTYP, 2.3.3)."""
_KINDS: Final = {
    RequestKind.WRITE: ChangeKind.WRITE,
    RequestKind.ZERO: ChangeKind.ZERO,
    RequestKind.DISCARD: ChangeKind.DISCARD,
}
_CLOCKS: Final[dict[str, int]] = {"tencent": 0, "msr": FILETIME_EPOCH_US}
"""Formats whose times are of a calendar, and what is taken off to count from 1970."""
_MOST_DEVICES: Final = 20


def recording_source(
    name: str, path: Path, *, device: str | None = None, discard_zeroes: bool = False
) -> ImportSource:
    """A recording of the format `name`; see source_of_requests()."""
    early_us = _CLOCKS.get(name)

    def requests() -> Iterator[TracedRequest]:
        return open_trace(path, name).requests()

    return source_of_requests(name, requests, [], device, discard_zeroes, early_us)


def source_of_requests(
    name: str,
    requests: Callable[[], Iterator[TracedRequest]],
    warnings: list[str],
    device: str | None,
    discard_zeroes: bool,
    early_us: int | None,
) -> ImportSource:
    """What the requests to one device change.

    device: as the recording calls it; may be left out where it has one only. BadUse where that isn't so.
    discard_zeroes: the device reads as zeros where it was discarded. Linux promises that of no device
    (Documentation/ABI/stable/sysfs-block, discard_zeroes_data is always 0), so without it a discard is a write.
    early_us: what is taken off the times to count from 1970; None where they are of no calendar.
    """

    def changes() -> Iterator[Change]:
        devices: dict[str, None] = {}
        chosen, found = device, False
        for request in requests():
            if request.kind not in _KINDS:
                continue
            chosen = request.volume if chosen is None else chosen
            if len(devices) < _MOST_DEVICES:
                devices[request.volume] = None
            if request.volume == chosen:
                found = True
                at_us = max(request.time_us - (early_us or 0), 0)
                yield Change(
                    _kind(request.kind, discard_zeroes), request.offset, request.length, at_us
                )
            elif device is None:
                raise BadUse(
                    f"the recording has writes to several devices: {', '.join(devices)}, maybe more",
                    next="Name one with --device.",
                )
        if devices and not found:
            raise BadUse(
                f"the recording has no write to a device '{chosen}'",
                next=f"It has some to: {', '.join(devices)}.",
            )

    return ImportSource(name, changes, warnings, joins=False, dated=early_us is not None)


def _kind(kind: RequestKind, discard_zeroes: bool) -> ChangeKind:
    return ChangeKind.WRITE if kind is RequestKind.DISCARD and not discard_zeroes else _KINDS[kind]
