"""Imports recordings of block I/O in the formats of mirrorlog.producers.traces.

Their writes become WRITES commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from mirrorlog.errors import BadUse
from mirrorlog.producers.importers.change import Change, ChangeKind, ImportSource
from mirrorlog.producers.traces import RequestKind, TracedRequest, open_trace

FILETIME_EPOCH_US: Final = 11_644_473_600_000_000
"""The time from 1601-01-01 to 1970-01-01 (MS-DTYP, 2.3.3)."""
_KINDS: Final = {
    RequestKind.WRITE: ChangeKind.WRITE,
    RequestKind.ZERO: ChangeKind.ZERO,
    RequestKind.DISCARD: ChangeKind.DISCARD,
}
_EPOCHS_US: Final[dict[str, int]] = {"tencent": 0, "msr": FILETIME_EPOCH_US}
"""The formats with calendar times, and what to subtract from them to count from 1970."""
_MAX_LISTED_DEVICES: Final = 20


def recording_source(
    name: str, path: Path, *, device: str | None = None, discard_zeroes: bool = False
) -> ImportSource:
    """Read a recording of the format `name`. See source_of_requests() for the options.

    Of blkparse's text it takes queue events only, as a replay does. blkparse_source() takes all.
    """
    epoch_us = _EPOCHS_US.get(name)

    def requests() -> Iterator[TracedRequest]:
        return open_trace(path, name).requests(allow_no_change=True)

    return source_of_requests(
        name,
        requests,
        warnings=[],
        device=device,
        discard_zeroes=discard_zeroes,
        epoch_us=epoch_us,
    )


def source_of_requests(
    name: str,
    requests: Callable[[], Iterator[TracedRequest]],
    *,
    warnings: list[str],
    device: str | None,
    discard_zeroes: bool,
    epoch_us: int | None,
) -> ImportSource:
    """Return the source of the changes that the requests make to one device.

    name: the source's kind.
    requests: starts a pass over the recording.
    warnings: see ImportSource.
    device: the device's name in the recording. It may be None if there is only one.
    discard_zeroes: discarded ranges read as zeros. Linux promises that of no device (in
    Documentation/ABI/stable/sysfs-block, discard_zeroes_data is always 0), so without it a discard
    is a write.
    epoch_us: what to subtract from the times to count from 1970; None if they aren't calendar
    times.

    A pass raises BadUse if the recording has several devices and `device` is None, or if it has no
    write to `device`.
    """

    def changes() -> Iterator[Change]:
        devices: dict[str, None] = {}
        chosen, has_changes = device, False
        for request in requests():
            if request.kind not in _KINDS:
                continue
            chosen = request.volume if chosen is None else chosen
            if len(devices) < _MAX_LISTED_DEVICES:
                devices[request.volume] = None
            if request.volume == chosen:
                has_changes = True
                at_us = max(request.time_us - (epoch_us or 0), 0)
                yield Change(
                    _kind(request.kind, discard_zeroes),
                    offset=request.offset,
                    length=request.length,
                    at_us=at_us,
                )
            elif device is None:
                raise BadUse(
                    "the recording has writes to several devices: "
                    f"{', '.join(devices)} and possibly more",
                    next="Name the device with --device.",
                )
        if devices and not has_changes:
            raise BadUse(
                f"the recording has no write to a device '{chosen}'",
                next=f"It has writes to: {', '.join(devices)}.",
            )

    return ImportSource(name, changes, warnings, joins=False, dated=epoch_us is not None)


def _kind(kind: RequestKind, discard_zeroes: bool) -> ChangeKind:
    return ChangeKind.WRITE if kind is RequestKind.DISCARD and not discard_zeroes else _KINDS[kind]
