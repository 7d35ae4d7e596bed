"""The one reader of the environment and of the configuration file.

Order, the later winning: defaults, the file (`-c FILE`, TOML), `MIRRORLOG_*` in the environment, the command line.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from mirrorlog.errors import BadUse
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.records import TIERS


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

    state_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_state_dir("mirrorlog", appauthor=False))
    )
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("mirrorlog", appauthor=False))
    )

    host_linger_s: float = Field(default=0.1, gt=0)
    """A batch leaves for Kafka at the latest after that time."""
    host_batch_extents: int = Field(default=500, ge=1, le=60_000)
    """A batch leaves at that many extents: 60,000 are just below a message of 1 MiB."""
    host_nbd_batch_extents: int = Field(default=8192, ge=1, le=32_768)
    """The same for what NBD clients write (docs/nbd.md): they don't wait for a batch, so it may grow, and costs less then."""
    host_heartbeat_s: float = Field(default=1.0, gt=0)
    host_confirm: Literal["published", "recorded"] = "published"
    """When a region may leave the activity log: once Kafka has the commands that name its writes, or once the node has
    recorded them. With `recorded`, a host that can't reach a node waits for it where it needs room, and at its end."""
    region_bytes: int = Field(default=4 << 20, ge=512)
    hot_regions: int = Field(default=1024, ge=1)
    host_away_s: float = Field(default=2.0, gt=0)
    """Kafka is away once it has acknowledged nothing for so long, though commands wait (docs/decisions/host-spool.md)."""
    host_queue_bytes: int = Field(default=16 << 20, ge=1)
    """Commands that wait for Kafka in memory; what is more goes to the spool in the state folder."""
    host_spool_bytes: int = Field(default=256 << 20, ge=0)
    """How much of the disk the spool may take; 0: there is none."""
    host_when_full: Literal["widen", "fail"] = "widen"
    """When neither the spool nor the activity log has room while Kafka is away: whole regions, in the end the whole volume,
    count as dirty, and writes go on (widen); or a write waits for Kafka, a minute at most, and fails."""
    host_fork_timeout_s: float = Field(default=10.0, gt=0)
    """A secondary that takes longer for a forked write, or for a flush, goes out of the fork (docs/forked-writes.md)."""
    host_fork_queue_bytes: int = Field(default=64 << 20, ge=1)
    """Data that waits for one secondary; more puts it out of the fork, unless the writer waits for all of them (sync)."""
    host_fork_retry_s: float = Field(default=5.0, gt=0)
    """A secondary that is out of the fork is opened again after that time."""

    node_name: str = "node"
    """Of the worker, and of its folder under the state folder. Each of a group has its own, and keeps it: so a restart
    takes its partitions back at once."""
    node_flush_s: float = Field(default=0.25, gt=0, le=1.0)
    """A log record is written at the latest after that time."""
    node_flush_commands: int = Field(default=50_000, ge=1)
    node_flush_bytes: int = Field(default=16 << 20, ge=1)
    """Or at so many commands, or at so many bytes of them, of one partition."""
    node_backlog_bytes: int = Field(default=128 << 20, ge=1)
    """Above so many bytes that aren't in the log yet, of all partitions together, no more commands are fetched."""
    node_fetch_bytes: int = Field(default=4 << 20, ge=1 << 20)
    """Fetched of one partition at once."""
    node_record_max_bytes: int = Field(default=900_000, ge=10_000)
    """A larger record is split by block range; the rest of a message of 1 MiB is for the key and the metadata."""
    node_tiers_s: tuple[int, ...] = Field(default=(60, 3600, 86_400), min_length=1, max_length=3)
    """Records are rolled up each so many seconds: flushes to the tier 'minute', those to 'hour', those to 'day'."""
    node_keep_s: dict[str, float] = Field(default_factory=dict)
    """By tier, for how long its records are kept once a higher tier holds them (second 300, minute 7200, hour 86400), and
    for how long the log is kept at all (the highest tier; for ever unless it is named). A volume may say otherwise."""
    node_keep_past_sites_after_s: float | None = Field(default=None, ge=0)
    """What a site hasn't applied is kept for so much longer; for as long as it takes where this isn't set."""
    node_session_timeout_s: float = Field(default=6.0, ge=1)
    """A worker that isn't heard of for so long loses its partitions to the others: the shortest that Kafka allows unless
    its group.min.session.timeout.ms is set lower."""
    node_standbys: int = Field(default=1, ge=0)
    """How many other workers, if there are any, keep a copy of each partition's table, so that they take over at once."""
    node_commit_interval_s: float = Field(default=0.5, gt=0)
    node_block_cache_bytes: int = 32 << 20
    node_http: str = "127.0.0.1:0"
    """Where the node answers over HTTP: HOST:PORT (0: a free one, told when it is ready), or `off`."""
    node_http_token: str = Field(default="", repr=False)
    """Who asks must send it (Authorization: Bearer); without one only the loopback is listened at. Of all workers the same."""
    node_http_advertised: str = ""
    """What the other workers reach this one by, http://HOST:PORT, where the address it listens at isn't it."""
    node_http_queries: int = Field(default=4, ge=1, le=64)
    """Questions answered at a time; more are asked to come back."""
    node_http_wait_s: float = Field(default=30.0, ge=0)
    """How long a question waits, at most, for the log to be complete."""

    site_report_s: float = Field(default=1.0, gt=0)
    site_copy_bytes: int = Field(default=1 << 20, ge=4096)
    """Blocks are read and written in runs of up to that many bytes."""

    @field_validator("node_tiers_s")
    @classmethod
    def _rising(cls, tiers_s: tuple[int, ...]) -> tuple[int, ...]:
        if any(low >= high for low, high in pairwise((0, *tiers_s))):
            raise ValueError("each tier must be longer than the one before")
        return tiers_s

    @field_validator("node_keep_s")
    @classmethod
    def _of_tiers(cls, keep_s: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(keep_s) - set(TIERS)):
            raise ValueError(
                f"there is no tier {', '.join(unknown)}: the tiers are {', '.join(TIERS)}"
            )
        return keep_s

    @property
    def topics(self) -> Topics:
        """The topics under the prefix."""
        return Topics(self.topic_prefix)

    def as_environment(self) -> dict[str, str]:
        """The environment that gives a child process these settings; its owner alone can read it (proc(5), environ)."""
        prefix = str(self.model_config["env_prefix"])
        plain = self.model_dump(mode="json")
        return {
            f"{prefix}{name.upper()}": json.dumps(value)
            if isinstance(value, dict | list)
            else str(value)
            for name, value in plain.items()
            if value is not None
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
    from_environment = {
        name.removeprefix(prefix).lower() for name in os.environ if name.startswith(prefix)
    }
    kept = {name: value for name, value in from_file.items() if name not in from_environment}
    try:
        return Settings(**kept | given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise BadUse(
            f"setting '{name}': {first['msg']}",
            next="Correct it in the file, in MIRRORLOG_* or on the command line.",
        ) from error


def inherited_environment() -> dict[str, str]:
    """The environment that child processes get."""
    return dict(os.environ)
