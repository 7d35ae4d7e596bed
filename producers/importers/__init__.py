"""Imports recordings of writes and dirty maps that other tools made of a volume.

Such a volume can be tracked without a mirrorlog host. Each source is read twice. The first pass
proves that it is sound and fits the volume, and the second pass publishes it.

- change.py: a change of a range, and a source of changes.
- reading.py: reads files in bounded memory, and says where an error is.
- maps.py: dirty maps of qemu-img, nbdinfo, rbd and nbdkit.
- thin_delta.py: the dirty map that thin_delta prints.
- recordings.py: recordings in the formats of mirrorlog.producers.traces.
- fio.py: fio's I/O logs.
- blktrace.py, blkparse.py: recordings of the kernel's block tracer, in binary and as text.
- block_recordings.py: which changes the events of such a recording name.
- recorded_devices.py: finds the devices of such a recording, and where partitions begin.
- request_stages.py: follows requests through a recording, so that each names its range once.
- flush_ends.py: tells completed flushes from completed operations on zones.
- sequence_gaps.py: finds events that are missing.
- fitting.py: fits changes to a volume and makes batches of them.
- publishing.py: publishes the batches as a session, and counts the node's answers.
"""

from __future__ import annotations

from mirrorlog.producers.importers.blkparse import blkparse_source
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
    "blkparse_source",
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
