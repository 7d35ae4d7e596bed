"""Importers: a volume that mirrorlog doesn't sit in front of can be tracked by what others recorded of it or keep of it.

A source (a recording of writes, or a dirty map) is read twice: once to prove it sound and fitting, and once to publish it.
"""

from __future__ import annotations

from mirrorlog.producers.importers.blktrace import blktrace
from mirrorlog.producers.importers.change import Change, ChangeKind, Source, Span
from mirrorlog.producers.importers.fio import fio_log
from mirrorlog.producers.importers.fitting import Content, Tally, Terms, commands, span
from mirrorlog.producers.importers.maps import extent_list, nbdinfo, qemu_map, rbd_diff
from mirrorlog.producers.importers.publishing import Answers, Published, Session
from mirrorlog.producers.importers.reading import readable_twice
from mirrorlog.producers.importers.recordings import recording
from mirrorlog.producers.importers.thin_delta import thin_delta

__all__ = [
    "Answers",
    "Change",
    "ChangeKind",
    "Content",
    "Published",
    "Session",
    "Source",
    "Span",
    "Tally",
    "Terms",
    "blktrace",
    "commands",
    "extent_list",
    "fio_log",
    "nbdinfo",
    "qemu_map",
    "rbd_diff",
    "readable_twice",
    "recording",
    "span",
    "thin_delta",
]
