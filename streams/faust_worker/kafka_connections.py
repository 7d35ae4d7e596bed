"""The connections of an aiokafka client, prepared before they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def prepare_connections(client: Any, prepare: Callable[[Any], None]) -> None:
    """Let an AIOKafkaClient, which has no connection yet, call `prepare` with each of its own.

    It is called whenever the client takes a connection that is open, so more than once for each.
    No other task has run between the making of a connection and its first call.
    """
    get_connection = client._get_conn

    async def prepared(*arguments: Any, **named: Any) -> Any:
        connection: Any = await get_connection(*arguments, **named)
        if connection is not None and connection.connected():
            prepare(connection)
        return connection

    client._get_conn = prepared
