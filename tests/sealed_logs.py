"""Commands on a real broker, recorded as a node would, for tests that seal them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

from command_line import run_main
from deadlines import DEADLINE_S

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher
from mirrorlog.codec.events import encode
from mirrorlog.domain.histories import History, anchor_of
from mirrorlog.settings import Settings
from mirrorlog.topics import TopicSpec
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

Command = tuple[bytes, bytes]


def commands(count: int) -> list[Command]:
    """Return the keys and values of commands."""
    return [(b"vol", f"command {number}".encode()) for number in range(count)]


def publish(settings: Settings, published: Sequence[Command], *, epoch: int = 1) -> None:
    """Append commands to partition 0, and the watermark with which a node records them."""
    topics, client = settings.topics, settings.kafka_client()
    with closing(KafkaAdmin(client)) as admin, closing(KafkaPublisher(client)) as publisher:
        names = (topics.commands, topics.changelog, topics.volumes)
        admin.create([TopicSpec(name, {}) for name in names], 1)
        for key, value in published:
            publisher.publish(topics.commands, 0, key, value)
        publisher.flush(DEADLINE_S)
        watermark = Watermark(
            partition=0,
            through=admin.end_position(topics.commands, 0) - 1,
            at_us=0,
            history=History(
                cluster=admin.cluster_id(),
                topic=admin.identity(topics.commands),
                epoch=epoch,
                id=str(UUID(int=epoch)),
            ),
            anchor=anchor_of(*published[-1]),
        )
        publisher.publish(topics.changelog, 0, watermark_key(0), encode(watermark))
        publisher.flush(DEADLINE_S)


def audit(settings: Settings, *arguments: str | Path) -> tuple[int, list[dict[str, Any]]]:
    """Run `mirrorlog audit`; return its exit code and the JSON objects that it printed."""
    return run(settings, "audit", *arguments)


def run(settings: Settings, *arguments: str | Path) -> tuple[int, list[dict[str, Any]]]:
    """Run a command; return its exit code and the JSON objects that it printed."""
    given = [
        "--json",
        "--bootstrap-servers",
        settings.bootstrap_servers,
        "--state-dir",
        str(settings.state_dir),
        "-c",
        str(write_settings(settings)),
    ]
    code, out, _ = run_main([*map(str, arguments), *given])
    return code, [json.loads(line) for line in out.splitlines()]


def write_settings(settings: Settings) -> Path:
    """Write what `audit` can't be told by options into a file; return its path."""
    path = settings.state_dir.with_suffix(".toml")
    lines = [f'topic_prefix = "{settings.topic_prefix}"', f'chain_dir = "{settings.chain_dir}"']
    if settings.archive:
        lines.append(f'archive = "{settings.archive}"')
    path.write_text("\n".join(lines))
    return path
