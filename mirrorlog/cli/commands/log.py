"""`mirrorlog log`: show the records of the tracking log, and check them against the commands."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from mirrorlog.adapters.host_key_file import read_host_keys
from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.changelog import (
    ComparedRange,
    NewestWatermark,
    changelog_messages,
    commands_through,
    compared_range,
    read_changelog,
    table_range,
)
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.lookup import find_volume, load_volumes
from mirrorlog.cli.support.tables import Column, print_table
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DifferenceFound, OutOfRetention
from mirrorlog.settings import Settings
from mirrorlog.streams.fold.authenticity import Authenticity
from mirrorlog.streams.table.rebuild_check import (
    Difference,
    check_records,
    summarize_blocks,
)
from mirrorlog.streams.table.record_digests import RecordDigests
from mirrorlog.streams.table.table_files import (
    table_partitions,
    table_records,
    table_watermark,
)
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import RecordKey, key_kind, read_record_key, split_log_name
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.tiers import TIERS
from mirrorlog.units import format_count

app = typer.Typer(no_args_is_help=True, help="Show the tracking log, and check it.")

_MAX_DIFFERENCES_PRINTED = 20
_MAX_RUNS_PRINTED = 10
_COLUMNS = (
    Column("TIER"),
    *(Column(name, right=True) for name in ("AFTER", "THROUGH", "PART", "BLOCKS", "ZEROED")),
    *(Column(name, right=True) for name in ("COMMANDS", "WRITES", "BYTES")),
    Column("HOSTS", wraps=True),
)


@app.command()
def show(
    context: typer.Context, volume: Annotated[str, typer.Argument(metavar="VOLUME[@SITE]")]
) -> None:
    """Show the records of a volume: days, hours, minutes, then what isn't rolled up yet.

    Each tier begins with its oldest record. VOLUME@SITE shows the records of what the site has
    missed, if a host sends its writes there, too.
    """
    call = invocation(context)
    description = find_volume(call.settings, split_log_name(volume)[0])
    records, through = read_changelog(call.settings, description.partition)
    mine = [record for record in records if record.volume == volume]
    mine.sort(key=lambda r: (-r.tier, r.after, r.through, r.part))
    for record in mine:
        call.output.print_message("record", _record_fields(record))
    call.output.print_message(
        "result",
        {
            "volume": volume,
            "records": len(mine),
            "complete_through": None if through == BEFORE_FIRST else through,
        },
    )
    print_table(call.output, _COLUMNS, map(_as_row, mine))


@app.command()
def rebuild(
    context: typer.Context,
    volume: Annotated[str | None, typer.Argument(metavar="[VOLUME]")] = None,
    all_volumes: Annotated[bool, typer.Option("--all", help="Check every volume.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare only, and write nothing.")
    ] = False,
) -> None:
    """Fold the commands again, and compare the result with the log.

    The log is the changelog, and this machine's table if it has one. Exit 4 if a record doesn't
    hold what the commands in its range name, and 3 if nothing of a partition can be compared.
    """
    call = invocation(context)
    if not check:
        raise BadUse(
            "there is only --check: the node repairs a wrong log, from the commands",
            next="Add --check.",
        )
    if (volume is None) is not all_volumes:
        raise BadUse("what is to be checked isn't clear", next="Name one volume, or say --all.")
    volumes = (
        {volume: find_volume(call.settings, volume)} if volume else load_volumes(call.settings)
    )
    differences: list[Difference] = []
    ranges: list[ComparedRange] = []
    for partition in sorted({description.partition for description in volumes.values()}):
        in_partition = {
            name: description
            for name, description in volumes.items()
            if description.partition == partition
        }
        digests, newest = _changelog_digests(call.settings, partition, in_partition.keys())
        ranges.append(compared_range(call.settings, partition, newest.through))
        differences += _check_changelog(call, partition, in_partition, digests, newest.through)
        differences += _check_table(call, partition, in_partition, newest)
    _print_result(call, volumes, differences, ranges)


def _as_row(record: LogRecord) -> list[str]:
    """Return the cells of _COLUMNS."""
    return [
        TIERS[record.tier],
        str(record.after),
        str(record.through),
        f"{record.part + 1}/{record.parts}",
        str(len(record.changed)),
        str(len(record.zeroed)),
        str(record.commands),
        str(record.writes),
        str(record.bytes_written),
        ", ".join(record.hosts),
    ]


def _record_fields(record: LogRecord) -> dict[str, object]:
    return {
        "volume": record.volume,
        "after": record.after,
        "through": record.through,
        "changed_blocks": len(record.changed),
        "zeroed_blocks": len(record.zeroed),
        "commands": record.commands,
        "writes": record.writes,
        "tier": TIERS[record.tier],
        "generation": record.generation,
        "first_write_at": format_time(record.first_at_us),
        "last_write_at": format_time(record.last_at_us),
        "part": record.part,
        "parts": record.parts,
        "bytes_written": record.bytes_written,
        "hosts": record.hosts,
    }


def _check_changelog(
    call: Invocation,
    partition: int,
    volumes: Mapping[str, Volume],
    digests: RecordDigests,
    through: int,
) -> Iterator[Difference]:
    """Compare the changelog's records of `volumes` with the commands.

    volumes: all of them lie in `partition`. digests, through: of _changelog_digests().
    """

    def changelog_records() -> Iterable[LogRecord]:
        records, _ = read_changelog(call.settings, partition)
        return (record for record in records if _is_of(record, volumes))

    commands = commands_through(call.settings, partition, through)
    yield from check_records(
        commands,
        volumes,
        digests,
        where="changelog",
        reread=changelog_records,
        through=through,
        authenticity=_authenticity(call.settings),
    )


def _check_table(
    call: Invocation, partition: int, volumes: Mapping[str, Volume], newest: NewestWatermark
) -> Iterator[Difference]:
    """Compare this machine's table with the commands, as far as the table says that it is complete.

    A worker that lost the partition to another one leaves its table behind, as of then.
    newest: the watermark of the changelog.
    """
    table = table_partitions(call.settings.node_folder).get(partition)
    held = None if table is None else table_watermark(table, partition)
    compared = table_range(held, newest)
    if compared.note:
        call.output.print_text(f"partition {partition}: {compared.note}")
    if table is None or compared.through is None:
        return

    def table_records_of_volumes() -> Iterable[LogRecord]:
        return (record for record in table_records(table) if _is_of(record, volumes))

    commands = commands_through(call.settings, partition, compared.through)
    digests = RecordDigests(table_records_of_volumes())
    yield from check_records(
        commands,
        volumes,
        digests,
        where="table",
        reread=table_records_of_volumes,
        through=compared.through,
        authenticity=_authenticity(call.settings),
    )


def _authenticity(settings: Settings) -> Authenticity | None:
    """Return what judges codes of commands, by the node's file of keys; None without one."""
    path = settings.node_host_keys_file
    return None if path is None else Authenticity(read_host_keys(path))


def _changelog_digests(
    settings: Settings, partition: int, volumes: Collection[str]
) -> tuple[RecordDigests, NewestWatermark]:
    """Return the digests of the changelog's records of `volumes`, and the watermark.

    The records themselves aren't kept: they may be larger than the memory.
    """
    digests, newest = RecordDigests(), NewestWatermark()
    for message in changelog_messages(settings, partition):
        key = message.key or b""
        kind = key_kind(key)
        is_watermark = kind is Watermark and message.value is not None
        if is_watermark and newest.take(decode(message.value or b"", Watermark)):
            digests = RecordDigests()
        if kind is LogRecord and _is_of(record_key := read_record_key(key), volumes):
            if message.value is None:
                digests.drop(record_key)
            else:
                digests.add(decode(message.value, LogRecord))
    return digests, newest


def _is_of(record: LogRecord | RecordKey, volumes: Collection[str]) -> bool:
    """Return whether the record belongs to a log, also a missed log, of one of `volumes`."""
    return split_log_name(record.volume)[0] in volumes


def _print_result(
    call: Invocation,
    volumes: Mapping[str, Volume],
    differences: list[Difference],
    ranges: list[ComparedRange],
) -> None:
    """Print the first differences, what was compared, and the result.

    DifferenceFound if there is any difference; OutOfRetention if nothing of a partition could be
    compared.
    """
    unknown = [compared for compared in ranges if compared.is_empty]
    for difference in differences[:_MAX_DIFFERENCES_PRINTED]:
        call.output.print_message("difference", _difference_fields(difference))
        call.output.print_text(str(difference))
    for compared in ranges:
        call.output.print_text(str(compared))
    call.output.print_message(
        "result",
        {
            "volumes": len(volumes),
            "differences": len(differences),
            "ok": False if differences else None if unknown else True,
            "partitions": [asdict(compared) for compared in ranges],
        },
    )
    if differences:
        raise DifferenceFound(
            f"what differs from the commands: {format_count(len(differences), 'record')}",
            where=str(differences[0]),
            next="Stop the node, remove its state folder and the changelog, reset its group, and "
            "start it again.",
        )
    if unknown:
        raise OutOfRetention(
            "nothing is proved of the log where nothing could be compared",
            where=", ".join(f"partition {compared.partition}" for compared in unknown),
            next="Start a node if the log isn't complete yet. If the commands aren't kept any "
            "more, nothing can prove it.",
        )
    checked = format_count(len(volumes), "volume")
    call.output.print_text(f"{checked}: the log holds what the commands name")


def _difference_fields(difference: Difference) -> dict[str, object]:
    def runs_of(blocks: BlockSet) -> str:
        return summarize_blocks(blocks, _MAX_RUNS_PRINTED) if blocks else ""

    return {
        "volume": difference.volume,
        "where": difference.where,
        "tier": TIERS[difference.tier],
        "after": difference.after,
        "through": difference.through,
        "what": difference.what,
        "missing": runs_of(difference.missing),
        "surplus": runs_of(difference.surplus),
    }
