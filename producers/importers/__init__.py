"""Importers: a volume that mirrorlog doesn't sit in front of can be tracked by what others recorded of it or keep of it.

A source (a recording of writes, or a dirty map) is read twice: once to prove it sound and fitting, and once to publish it.
"""

from __future__ import annotations

from mirrorlog.producers.importers.blktrace import blktrace_source
from mirrorlog.producers.importers.change import AddressRange, Change, ChangeKind, ImportSource
from mirrorlog.producers.importers.fio import fio_source
from mirrorlog.producers.importers.fitting import (
    FitOptions,
    ImportBatch,
    ImportCounts,
    import_batches,
    volume_range,
)
from mirrorlog.producers.importers.maps import (
    extent_list_source,
    nbdinfo_source,
    qemu_map_source,
    rbd_diff_source,
)
from mirrorlog.producers.importers.publishing import ImportSession, PublishedImport, SessionStatuses
from mirrorlog.producers.importers.reading import as_regular_files
from mirrorlog.producers.importers.recordings import recording_source
from mirrorlog.producers.importers.thin_delta import thin_delta_source

__all__ = [
    "AddressRange",
    "Change",
    "ChangeKind",
    "FitOptions",
    "ImportBatch",
    "ImportCounts",
    "ImportSession",
    "ImportSource",
    "PublishedImport",
    "SessionStatuses",
    "as_regular_files",
    "blktrace_source",
    "extent_list_source",
    "fio_source",
    "import_batches",
    "nbdinfo_source",
    "qemu_map_source",
    "rbd_diff_source",
    "recording_source",
    "thin_delta_source",
    "volume_range",
]
