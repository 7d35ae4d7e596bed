"""`mirrorlog topics`: making them."""

from __future__ import annotations

from typing import Annotated

import typer

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.cli.context import invocation
from mirrorlog.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The topics that mirrorlog lives on.")


@app.command()
def create(
    context: typer.Context,
    partitions: Annotated[int | None, typer.Option(help="Of the commands and of the log; fixed for ever.")] = None,
) -> None:
    """Make the topics that aren't there yet."""
    call = invocation(context)
    names = make_topics(call.settings, partitions or call.settings.partitions)
    call.output.result({"schema_version": 1, "topics": names})
    call.output.say("\n".join(names))


def make_topics(settings: Settings, partitions: int) -> list[str]:
    """Makes all topics; their names."""
    admin = KafkaAdmin(settings.kafka_client())
    admin.wait_ready(30)
    specs = settings.topics.specs(single_broker=admin.brokers() == 1)
    admin.create(specs, partitions, settings.replication_factor)
    admin.close()
    return [spec.name for spec in specs]
