"""Files of commands: the messages of the commands topic, byte for byte, as Parquet.

Columns: `position` (int64), `appended_at_us` (int64; null where the message has no time),
`is_broker_time` (bool), `volume` (text; null where the value is no command), `key` and `value`
(binary; null as in the message). The rows are sorted by volume and position, so that a reader of
one volume skips the row groups of the others by their statistics.

The bytes are kept, and not only what they say, because Avro isn't canonical: the leaves of a sealed
history are over the exact bytes, and a later release may read more out of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from mirrorlog.archive.manifests import LastMessage
from mirrorlog.archive.parquet import ROW_GROUP_ROWS, parquet_bytes, read_parquet
from mirrorlog.codec.command_columns import decode_columns
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.histories import anchor_of
from mirrorlog.errors import BadInput
from mirrorlog.ports.streams import Message

_NO_VOLUME: Final = ""


def volumes_of(values: Sequence[bytes | None]) -> list[str | None]:
    """Return the volume that each command names; None where the value is no command."""
    columns = decode_columns(values)
    names = [sender.volume for sender in columns.senders]
    return [
        names[number] if plain else _volume(value)
        for value, number, plain in zip(
            values, columns.sender.tolist(), columns.plain.tolist(), strict=True
        )
    ]


def _volume(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return decode(value, TrackingCommand).volume
    except BadInput:
        return None


def encode_commands(messages: Sequence[Message]) -> bytes:
    """Return the Parquet file of these messages, of one partition."""
    import pyarrow as pa

    volumes = volumes_of([message.value for message in messages])
    order = sorted(
        range(len(messages)),
        key=lambda row: (volumes[row] or _NO_VOLUME, messages[row].position),
    )
    rows = [messages[row] for row in order]
    columns: dict[str, tuple[Any, list[Any]]] = {
        "position": (pa.int64(), [row.position for row in rows]),
        "appended_at_us": (pa.int64(), [row.at_us or None for row in rows]),
        "is_broker_time": (pa.bool_(), [row.by_broker for row in rows]),
        "volume": (pa.string(), [volumes[row] for row in order]),
        "key": (pa.binary(), [row.key for row in rows]),
        "value": (pa.binary(), [row.value for row in rows]),
    }
    optional = ("appended_at_us", "volume", "key", "value")
    schema = pa.schema(
        [pa.field(name, kind, name in optional) for name, (kind, _) in columns.items()]
    )
    arrays = [pa.array(values, kind) for kind, values in columns.values()]
    table = pa.Table.from_arrays(arrays, schema=schema)
    return parquet_bytes(
        table, dictionaries=("is_broker_time", "volume", "key"), row_group_rows=ROW_GROUP_ROWS
    )


def decode_commands(
    content: bytes,
    topic: str,
    partition: int,
    *,
    after: int,
    through: int,
    volumes: Iterable[str] | None = None,
    where: str = "",
) -> list[Message]:
    """Return the messages at positions in `(after, through]`, in the order of positions.

    topic, partition: that the messages say they are of. volumes: without the commands that name
    other volumes; None: all. where: the name of the file, for errors. Raise
    StateDamaged if the bytes are no such file.
    """
    wanted = None if volumes is None else sorted(set(volumes))
    table = read_parquet(content, after=after, through=through, volumes=wanted, where=where)
    columns = [table.column(name).to_pylist() for name in _READ]
    messages = [
        Message(topic, partition, position, key, value, at_us or 0, by_broker)
        for position, at_us, by_broker, key, value in zip(*columns, strict=True)
    ]
    messages.sort(key=lambda message: message.position)
    return messages


_READ: Final = ("position", "appended_at_us", "is_broker_time", "key", "value")


def last_message(message: Message) -> LastMessage:
    """Return what tells a message from any other that might take its place."""
    anchor = anchor_of(message.key, message.value).hex()
    return LastMessage(message.position, anchor, message.at_us)
