"""`mirrorlog log`: the tracking log itself, shown and proved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Annotated

import typer
from rich.table import Table

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.lookup import find_volume, load_volumes, patience_for, read_topic
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BitMap64
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DifferenceFound
from mirrorlog.ports.streams import Message
from mirrorlog.reading.read_through import read_through
from mirrorlog.settings import Settings
from mirrorlog.streams.table.rebuild_check import (
    Difference,
    check_records,
    summarize_blocks,
)
from mirrorlog.streams.table.record_digests import RecordDigests
from mirrorlog.streams.table.table_files import table_partitions, table_records
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import RecordKey, key_kind, read_record_key, split_log_name
from mirrorlog.tracking_log.records import TIERS, LogRecord

app = typer.Typer(no_args_is_help=True, help="Show the tracking log, and check it.")

_DIFFERENCES_SHOWN = 20


@app.command()
def show(
    context: typer.Context, volume: Annotated[str, typer.Argument(metavar="VOLUME[@SITE]")]
) -> None:
    """Show the records of a volume: days, hours, minutes, then what wasn't rolled up yet; each tier oldest first.

    VOLUME@SITE: those of what the site has missed, where a host sends its writes there too.
    """
    call = invocation(context)
    description = find_volume(call.settings, split_log_name(volume)[0])
    table = Table(
        "TIER",
        "AFTER",
        "THROUGH",
        "PART",
        "BLOCKS",
        "ZEROED",
        "COMMANDS",
        "WRITES",
        "BYTES",
        "HOSTS",
    )
    records, _ = read_changelog(call.settings, description.partition)
    mine = (record for record in records if record.volume == volume)
    for record in sorted(mine, key=lambda r: (-r.tier, r.after, r.through, r.part)):
        numbers = (
            record.after,
            record.through,
            len(record.changed),
            len(record.zeroed),
            record.commands,
            record.writes,
        )
        after, through, changed, zeroed, commands, writes = (str(each) for each in numbers)
        part = f"{record.part + 1}/{record.parts}"
        size, hosts = str(record.bytes_written), ", ".join(record.hosts)
        table.add_row(
            TIERS[record.tier], after, through, part, changed, zeroed, commands, writes, size, hosts
        )
        names = ("after", "through", "changed_blocks", "zeroed_blocks", "commands", "writes")
        fields = dict(zip(names, numbers, strict=True))
        more = {
            "tier": TIERS[record.tier],
            "generation": record.generation,
            "first_write_at": format_time(record.first_at_us),
            "last_write_at": format_time(record.last_at_us),
            "part": record.part,
            "parts": record.parts,
            "bytes_written": record.bytes_written,
            "hosts": record.hosts,
        }
        call.output.print_message("record", {"volume": volume, **fields, **more})
    call.output.console.print(table)


@app.command()
def rebuild(
    context: typer.Context,
    volume: Annotated[str | None, typer.Argument(metavar="[VOLUME]")] = None,
    all_volumes: Annotated[bool, typer.Option("--all", help="Every volume.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare only; nothing is written.")
    ] = False,
) -> None:
    """Fold the commands anew and compare with the changelog, and with this machine's table where there is one.

    Exit 4 where a record doesn't say what the commands in its range say.
    """
    call = invocation(context)
    if not check:
        raise BadUse(
            "only --check is there: a wrong log is mended by the node, from the commands",
            next="Add --check.",
        )
    if (volume is None) is not all_volumes:
        raise BadUse("what is to be checked isn't clear", next="Name one volume, or say --all.")
    volumes = (
        {volume: find_volume(call.settings, volume)} if volume else load_volumes(call.settings)
    )
    differences = []
    for partition in sorted({each.partition for each in volumes.values()}):
        here = {name: each for name, each in volumes.items() if each.partition == partition}
        differences += list(_check_partition(call, partition, here))
    for difference in differences[:_DIFFERENCES_SHOWN]:
        call.output.print_message("difference", _as_fields(difference))
        call.output.print_text(str(difference))
    call.output.print_message(
        "result", {"volumes": len(volumes), "differences": len(differences), "ok": not differences}
    )
    if differences:
        raise DifferenceFound(
            f"{len(differences)} records differ from the commands",
            where=str(differences[0]),
            next="Stop the node, remove its state folder and the changelog, reset its group, and start it again.",
        )
    call.output.print_text(f"{len(volumes)} volumes: the log says what the commands say")


def _as_fields(difference: Difference) -> dict[str, object]:
    def runs_of(blocks: BitMap64) -> str:
        return summarize_blocks(blocks, 10) if blocks else ""

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


def _check_partition(
    call: Invocation, partition: int, volumes: dict[str, Volume]
) -> Iterator[Difference]:
    def is_of(record: LogRecord | RecordKey) -> bool:
        return split_log_name(record.volume)[0] in volumes

    digests, through = RecordDigests(), -1
    for message in changelog_now(call.settings, partition):
        kind = key_kind(message.key or b"")
        if kind is Watermark and message.value is not None:
            through = max(through, decode(message.value, Watermark).through)
        if kind is LogRecord and is_of(key := read_record_key(message.key or b"")):
            digests.drop(key) if message.value is None else digests.add(
                decode(message.value, LogRecord)
            )

    def in_changelog() -> Iterable[LogRecord]:
        return (record for record in read_changelog(call.settings, partition)[0] if is_of(record))

    commands = _commands(call.settings, partition, through)
    yield from check_records(
        commands, volumes, digests, where="changelog", reread=in_changelog, through=through
    )
    table = table_partitions(call.settings.state_dir / call.settings.node_name).get(partition)
    if table is None:
        call.output.print_text(
            f"partition {partition}: this machine has no table of it; the changelog alone was compared"
        )
        return

    def in_table() -> Iterable[LogRecord]:
        return (record for record in table_records(table) if is_of(record))

    commands = _commands(call.settings, partition, through)
    yield from check_records(
        commands,
        volumes,
        RecordDigests(in_table()),
        where="table",
        reread=in_table,
        through=through,
    )


def read_changelog(settings: Settings, partition: int) -> tuple[list[LogRecord], int]:
    """The records of one partition as compaction would leave them, and through which position the log is complete."""
    entries: dict[bytes, bytes] = {}
    for message in changelog_now(settings, partition):
        if message.key is not None and message.value is not None:
            entries[message.key] = message.value
        elif message.key is not None:
            entries.pop(message.key, None)
    marks = [
        decode(value, Watermark) for key, value in entries.items() if key_kind(key) is Watermark
    ]
    through = max((mark.through for mark in marks), default=-1)
    records = (
        decode(value, LogRecord) for key, value in entries.items() if key_kind(key) is LogRecord
    )
    return [record for record in records if record.through <= through], through


def changelog_now(settings: Settings, partition: int) -> Iterator[Message]:
    """Yield the changelog of one partition to its end, and then to the end that it has by then.

    Records may be rolled up and compacted away before this reader meets them. Their roll-up lies
    before the second end. Raise KafkaFailed as read_through does.
    """
    topic, patience = settings.topics.changelog, patience_for("reading the tracking log")
    with (
        closing(KafkaAdmin(settings.kafka_client())) as admin,
        closing(KafkaReader(settings.kafka_client())) as reader,
    ):
        reader.assign(topic, {partition: None})
        for _ in range(2):
            end = admin.end_position(topic, partition)
            yield from read_through(reader, topic, {partition: end}, patience)


def _commands(settings: Settings, partition: int, through: int) -> Iterator[Message]:
    messages = read_topic(settings, settings.topics.commands, partition)
    return (message for message in messages if message.position <= through)
