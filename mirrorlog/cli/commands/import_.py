"""`mirrorlog import`: track a volume from recordings and dirty maps of other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.importing.options import (
    AllowEmptyOption,
    BeganOption,
    ClipOption,
    DeviceOption,
    DiscardZeroesOption,
    DryRunOption,
    HostOption,
    ImportOptions,
    OffsetShiftOption,
    PartialOption,
    SourceFile,
    SourceFiles,
    VolumeName,
    WaitOption,
)
from mirrorlog.cli.importing.run import OpenSource, run_import
from mirrorlog.cli.support.context import invocation
from mirrorlog.producers.importers import (
    AddressRange,
    ImportSource,
    blkparse_source,
    blktrace_source,
    extent_list_source,
    fio_source,
    nbdinfo_source,
    qemu_map_source,
    rbd_diff_source,
    recording_source,
    thin_delta_source,
)

app = typer.Typer(
    no_args_is_help=True,
    help="Track a volume from recordings and dirty maps of other tools (docs/import.md).",
)


def _add_recording(kind: str, help: str) -> None:
    """Add the command `kind`, which imports a recording of writes in one file."""

    @app.command(kind, help=help)
    def command(
        context: typer.Context,
        volume: VolumeName,
        file: SourceFile,
        device: DeviceOption = None,
        discard_zeroes: DiscardZeroesOption = False,
        began: BeganOption = None,
        offset_shift: OffsetShiftOption = None,
        clip: ClipOption = False,
        allow_empty: AllowEmptyOption = False,
        host: HostOption = None,
        dry_run: DryRunOption = False,
        wait: WaitOption = None,
    ) -> None:
        def open_source(files: Sequence[Path], volume_span: AddressRange) -> ImportSource:
            if kind == "fio":
                return fio_source(
                    files[0], volume_span, device=device, discard_zeroes=discard_zeroes
                )
            if kind == "blkparse":
                return blkparse_source(
                    files[0],
                    volume_span,
                    device=device,
                    discard_zeroes=discard_zeroes,
                    shifted=offset_shift is not None,
                )
            return recording_source(kind, files[0], device=device, discard_zeroes=discard_zeroes)

        options = ImportOptions(began, offset_shift, clip, host, dry_run, wait, allow_empty)
        run_import(invocation(context), kind, volume, [file], open_source, options)


def _add_list(kind: str, open_source: OpenSource, help: str) -> None:
    """Add the command `kind`, which imports a list of changed extents in one file."""

    @app.command(kind, help=help)
    def command(
        context: typer.Context,
        volume: VolumeName,
        file: SourceFile,
        began: BeganOption = None,
        offset_shift: OffsetShiftOption = None,
        clip: ClipOption = False,
        allow_empty: AllowEmptyOption = False,
        host: HostOption = None,
        dry_run: DryRunOption = False,
        wait: WaitOption = None,
    ) -> None:
        options = ImportOptions(began, offset_shift, clip, host, dry_run, wait, allow_empty)
        run_import(invocation(context), kind, volume, [file], open_source, options)


_add_recording("blkparse", "Import what blkparse(1) prints of a block trace.")
_add_recording("fio", "Import fio's I/O log (write_iolog), version 2 or 3.")
_add_recording("vscsi", "Import a binary trace of vscsiStats.")
_add_recording("msr", "Import a CSV trace of MSR Cambridge.")
_add_recording("tencent", "Import a CSV trace of Tencent block storage.")
_add_recording("mirrorlog", "Import a recording of mirrorlog's own (*.mltrace).")
_add_list(
    "rbd-diff",
    lambda files, _: rbd_diff_source(files[0]),
    "Import what `rbd diff --from-snap SNAP --format json` prints.",
)
_add_list(
    "thin-delta",
    lambda files, volume_span: thin_delta_source(files[0], volume_span),
    "Import the XML that thin_delta prints of two thin devices.",
)
_add_list(
    "extentlist",
    lambda files, _: extent_list_source(files[0]),
    "Import lines 'offset length type', as nbdkit reads them.",
)


@app.command("blktrace")
def import_blktrace(
    context: typer.Context,
    volume: VolumeName,
    files: SourceFiles,
    device: DeviceOption = None,
    discard_zeroes: DiscardZeroesOption = False,
    began: BeganOption = None,
    offset_shift: OffsetShiftOption = None,
    clip: ClipOption = False,
    allow_empty: AllowEmptyOption = False,
    host: HostOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = None,
) -> None:
    """Import the binary files of blktrace(8), or the stream of `blktrace -o -`."""

    def open_source(copies: Sequence[Path], volume_span: AddressRange) -> ImportSource:
        return blktrace_source(
            copies,
            volume_span,
            device=device,
            discard_zeroes=discard_zeroes,
            shifted=offset_shift is not None,
        )

    options = ImportOptions(began, offset_shift, clip, host, dry_run, wait, allow_empty)
    run_import(invocation(context), "blktrace", volume, files, open_source, options)


@app.command("qemu-map")
def import_qemu_map(
    context: typer.Context,
    volume: VolumeName,
    file: SourceFile,
    layers: Annotated[
        int,
        typer.Option(min=1, help="Import what this many of the chain's newest layers hold."),
    ] = 1,
    dirty_bitmap: Annotated[
        bool,
        typer.Option(
            "--dirty-bitmap",
            help="The map was made with x-dirty-bitmap: what it calls data is clean.",
        ),
    ] = False,
    partial: PartialOption = False,
    began: BeganOption = None,
    offset_shift: OffsetShiftOption = None,
    clip: ClipOption = False,
    allow_empty: AllowEmptyOption = False,
    host: HostOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = None,
) -> None:
    """Import what `qemu-img map --output=json` prints of an overlay or a dirty bitmap."""

    def open_source(files: Sequence[Path], _: AddressRange) -> ImportSource:
        return qemu_map_source(files[0], layers=layers, dirty_bitmap=dirty_bitmap)

    options = ImportOptions(began, offset_shift, clip, host, dry_run, wait, allow_empty, partial)
    run_import(invocation(context), "qemu-map", volume, [file], open_source, options)


@app.command("nbdinfo")
def import_nbdinfo(
    context: typer.Context,
    volume: VolumeName,
    file: SourceFile,
    partial: PartialOption = False,
    began: BeganOption = None,
    offset_shift: OffsetShiftOption = None,
    clip: ClipOption = False,
    allow_empty: AllowEmptyOption = False,
    host: HostOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = None,
) -> None:
    """Import what `nbdinfo --map=qemu:dirty-bitmap:NAME --json` prints."""

    def open_source(files: Sequence[Path], _: AddressRange) -> ImportSource:
        return nbdinfo_source(files[0])

    options = ImportOptions(began, offset_shift, clip, host, dry_run, wait, allow_empty, partial)
    run_import(invocation(context), "nbdinfo", volume, [file], open_source, options)
