"""The one reader of the environment and of the configuration file.

Order, the later winning: defaults, the file (`-c FILE`, TOML), `MIRRORLOG_*` in the environment, the command line.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mirrorlog.errors import BadUse
from mirrorlog.topics import Topics


class Settings(BaseSettings):
    """Everything that can be set. Sizes in bytes, times in seconds; the command line takes units."""

    model_config = SettingsConfigDict(env_prefix="MIRRORLOG_", frozen=True, extra="forbid")

    bootstrap_servers: str = "127.0.0.1:9092"
    kafka: dict[str, str] = Field(default_factory=dict)
    """Client settings by librdkafka's names, handed on as they are; `-F` and `-X` on the command line."""
    topic_prefix: str = "mirrorlog."
    partitions: int = Field(default=4, ge=1, le=10_000)
    replication_factor: int = Field(default=0, ge=0)
    """0: three where the cluster has three brokers, otherwise one."""

    patience_s: float = Field(default=300.0, ge=1)
    """How long the node and the sites hold back and try again while the cluster is away, before they stop."""

    state_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_state_dir("mirrorlog", appauthor=False)))
    cache_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_cache_dir("mirrorlog", appauthor=False)))

    host_linger_s: float = Field(default=0.1, gt=0)
    """A batch leaves for Kafka at the latest after that time."""
    host_batch_extents: int = Field(default=500, ge=1, le=60_000)
    """A batch leaves at that many extents: 60,000 are just below a message of 1 MiB."""
    host_heartbeat_s: float = Field(default=1.0, gt=0)
    region_bytes: int = Field(default=4 << 20, ge=512)
    hot_regions: int = Field(default=1024, ge=1)

    node_name: str = "node"
    """Of the worker, and of its folder under the state folder. Each of a group has its own, and keeps it: so a restart
    takes its partitions back at once."""
    node_flush_s: float = Field(default=0.25, gt=0, le=1.0)
    """A log record is written at the latest after that time."""
    node_flush_commands: int = Field(default=2000, ge=1)
    node_buffer_messages: int = Field(default=4096, ge=1)
    node_record_max_bytes: int = Field(default=900_000, ge=10_000)
    """A larger record is split by block range; the rest of a message of 1 MiB is for the key and the metadata."""
    node_session_timeout_s: float = Field(default=10.0, ge=1)
    node_commit_interval_s: float = Field(default=0.5, gt=0)
    node_block_cache_bytes: int = 32 << 20

    site_report_s: float = Field(default=1.0, gt=0)
    site_copy_bytes: int = Field(default=1 << 20, ge=4096)
    """Blocks are read and written in runs of up to that many bytes."""

    @property
    def topics(self) -> Topics:
        """The topics under the prefix."""
        return Topics(self.topic_prefix)

    def as_environment(self) -> dict[str, str]:
        """The environment that gives a child process these settings; its owner alone can read it (proc(5), environ)."""
        prefix = str(self.model_config["env_prefix"])
        plain = self.model_dump(mode="json")
        return {
            f"{prefix}{name.upper()}": json.dumps(value) if isinstance(value, dict) else str(value)
            for name, value in plain.items()
        }

    def kafka_client(self, **more: str | int | bool) -> dict[str, str | int | bool]:
        """librdkafka's settings of a client: the addresses, what the user passed, then what the role insists on."""
        return {"bootstrap.servers": self.bootstrap_servers, **self.kafka, **more}


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings from the file, the environment and the command line; BadUse that names what is wrong and where."""
    given = dict(overrides or {})
    try:
        from_file = tomllib.loads(path.read_text("utf-8")) if path else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadUse(f"the configuration can't be read: {error}", where=str(path)) from error
    prefix = str(Settings.model_config["env_prefix"])
    from_environment = {name.removeprefix(prefix).lower() for name in os.environ if name.startswith(prefix)}
    kept = {name: value for name, value in from_file.items() if name not in from_environment}
    try:
        return Settings(**kept | given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise BadUse(
            f"setting '{name}': {first['msg']}", next="Correct it in the file, in MIRRORLOG_* or on the command line."
        ) from error


def inherited_environment() -> dict[str, str]:
    """The environment that child processes get."""
    return dict(os.environ)
