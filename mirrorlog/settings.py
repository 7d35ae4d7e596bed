"""The settings, and the one reader of the environment and of the configuration file.

A later source overrules an earlier one: defaults, the file (`-c FILE`, TOML), `MIRRORLOG_*` in the
environment, the command line.
"""

from __future__ import annotations

import json
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias
from uuid import uuid4

import platformdirs
from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from mirrorlog.bootstrap_servers import (
    DEFAULT_SERVERS,
    SERVERS_KEY,
    BootstrapServers,
    choose_servers,
)
from mirrorlog.domain.host_keys import SIGNER_KEY, CommandSigner, parse_host_key, session_of
from mirrorlog.errors import BadUse
from mirrorlog.registry_access import REGISTRY_KEY, RegistryAccess
from mirrorlog.secret_files import read_secret, with_secrets_from_files
from mirrorlog.setting_errors import (
    PREFIX,
    Origin,
    SettingForm,
    SettingsFile,
    form_of,
    problem_of,
    unknown_in_file,
    unknown_variables,
    variable_of,
    wrong_value,
)
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.tiers import TIERS

ClientValue: TypeAlias = str | int | bool | BootstrapServers | RegistryAccess | CommandSigner
"""The value of a setting of a Kafka client."""
OLD_NODE_NAME: Final = "node"
"""The default of `node_name` in earlier releases. A folder of this name is taken over."""
SECRETS_BY_FILE: Final = {
    "host_key_file": "host_key",
    "node_http_token_file": "node_http_token",
    "metrics_token_file": "metrics_token",
    "dashboard_http_token_file": "dashboard_http_token",
    "schema_registry_user_info_file": "schema_registry_user_info",
}
"""By the settings that name a file, the secret that it holds."""
_NODE_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"


def default_node_name() -> str:
    """Return the name of a worker on this machine that was given none."""
    machine = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0])
    return f"node-{machine.strip('-')[:64] or 'unnamed'}"


class Settings(BaseSettings):
    """The settings. Sizes are in bytes, times in seconds. The command line accepts units."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    bootstrap_servers: str = DEFAULT_SERVERS
    """The Kafka cluster's addresses. Unless they are named, load_settings takes those of the state
    folder's embedded broker (bootstrap_servers.py)."""
    kafka: dict[str, str] = Field(default_factory=dict, repr=False)
    """Client settings by librdkafka's names, passed on unchanged (`-F` and `-X`). A secret may be
    in a file that `NAME_file` names: `sasl.password_file`."""
    topic_prefix: str = "mirrorlog."
    kafka_mirror_of: str = ""
    """The id of the cluster whose log a site, or a question, reads here from a mirror
    (docs/multi-site.md). Empty: the topics of this cluster are no mirror."""
    kafka_mirror_prefix: str = ""
    """What the mirror puts before the names of the topics, such as `source.`; empty if it keeps the
    names."""
    kafka_mirrored_sites: tuple[str, ...] = ()
    """In the cluster of the node: what mirrors put before the names of the topics that they bring
    from the clusters of sites, such as `["berlin."]`; `[""]` if they keep the names."""
    schema_registry_url: str = ""
    """The URL of a schema registry. With it, events are written in Confluent's wire format and read
    in both (docs/schema-registry.md)."""
    schema_registry_user_info: str = Field(default="", repr=False)
    """USER:PASSWORD for the registry."""
    schema_registry_user_info_file: Path | None = None
    """The file that holds that, instead."""
    schema_registry_ca: Path | None = None
    """The authorities by which the registry is trusted, as PEM; by default, those of the
    machine."""
    partitions: int = Field(default=4, ge=1, le=10_000)
    replication_factor: int = Field(default=0, ge=0)
    """0: three if the cluster has at least three brokers, otherwise one."""

    patience_s: float = Field(default=300.0, ge=1)
    """How long the node and the sites retry while the cluster is away, before they stop."""

    state_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_state_dir("mirrorlog", appauthor=False))
    )
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("mirrorlog", appauthor=False))
    )

    host_linger_s: float = Field(default=0.1, gt=0)
    """The longest time before a batch leaves for Kafka."""
    host_batch_extents: int = Field(default=2000, ge=1, le=60_000)
    """The number of extents at which a batch leaves. The writer that fills it also closes it.
    60,000 are just below a message of 1 MiB."""
    host_nbd_batch_extents: int = Field(default=8192, ge=1, le=32_768)
    """The same for writes of NBD clients (docs/nbd.md). They don't wait for a batch, so a batch may
    grow, which costs less."""
    host_heartbeat_s: float = Field(default=1.0, gt=0)
    host_confirm: Literal["published", "recorded"] = "published"
    """When a region may leave the activity log: once Kafka has the commands that name its writes,
    or once the node has recorded them. With `recorded`, a host without a node waits for it when the
    activity log is full, and when the host ends."""
    host_key: str = Field(default="", repr=False)
    """The key, ID:SECRET, whose codes the commands of this process carry (docs/host-keys.md). With
    it, a host confirms as if `host_confirm` were `recorded`."""
    host_key_file: Path | None = None
    """The file that holds the key, instead."""
    region_bytes: int = Field(default=4 << 20, ge=512)
    hot_regions: int = Field(default=1024, ge=1)
    host_region_idle_s: float = Field(default=5.0, ge=0)
    """A region that nobody has written to for this long leaves the activity log, when its writes
    are acknowledged and flushed. So a host that is killed marks as dirty only the regions of the
    last seconds. 0: regions stay until there is no room."""
    host_away_s: float = Field(default=2.0, gt=0)
    """Kafka counts as away if it acknowledges nothing for this long although commands wait
    (docs/decisions/host-spool.md)."""
    host_queue_bytes: int = Field(default=16 << 20, ge=1)
    """Commands that wait for Kafka in memory. Further ones go to the spool in the state folder."""
    host_spool_bytes: int = Field(default=256 << 20, ge=0)
    """The disk space that the spool may take. 0: there is no spool."""
    host_when_full: Literal["widen", "fail"] = "widen"
    """What happens when neither the spool nor the activity log has room while Kafka is away.
    widen: whole regions, and in the end the whole volume, count as dirty, and writes go on.
    fail: a write waits for Kafka, for a minute at most, and fails."""
    host_fork_timeout_s: float = Field(default=10.0, gt=0)
    """A secondary that takes longer for a forked write or a flush leaves the fork
    (docs/forked-writes.md)."""
    host_fork_queue_bytes: int = Field(default=64 << 20, ge=1)
    """Data that waits for one secondary. With more, the secondary leaves the fork, unless the
    writer waits for all secondaries (sync)."""
    host_fork_retry_s: float = Field(default=5.0, gt=0)
    """The time after which a secondary that left the fork is opened again."""
    host_snapshot_memory_bytes: int = Field(default=64 << 20, ge=0)
    """What a host keeps in memory of what NBD clients overwrite while a site reads a snapshot
    (docs/decisions/point-in-time-reads.md)."""
    host_snapshot_disk_bytes: int = Field(default=1 << 30, ge=0)
    """What it keeps beyond that, in a file of the state folder. When both are full, the oldest
    snapshot breaks."""

    node_name: str = Field(default_factory=default_node_name, pattern=_NODE_NAME)
    """The name of the worker, and of its folder under the state folder. The default is `node-` and
    the machine's name: each further worker of one machine needs a name of its own. A worker that
    keeps its name and its folder gets its partitions back at once when it is restarted."""
    node_flush_s: float = Field(default=0.25, gt=0, le=1.0)
    """The longest time before a log record is written."""
    node_flush_commands: int = Field(default=50_000, ge=1)
    node_flush_bytes: int = Field(default=16 << 20, ge=1)
    """Or at this number of commands, or of their bytes, of one partition."""
    node_host_keys_file: Path | None = None
    """The file of the keys of hosts, and of the volumes that each may touch (docs/host-keys.md).
    The node reads it again when it changes."""
    node_backlog_bytes: int = Field(default=128 << 20, ge=1)
    """No more commands are fetched while this number of bytes, over all partitions, isn't in the
    log yet."""
    node_fetch_bytes: int = Field(default=4 << 20, ge=1 << 20)
    """The most that one fetch of a partition returns."""
    node_record_max_bytes: int = Field(default=900_000, ge=10_000)
    """A larger record is split by block range. The rest of a message of 1 MiB is for the key and
    the metadata."""
    node_tiers_s: tuple[int, ...] = Field(default=(60, 3600, 86_400), min_length=1, max_length=3)
    """The lengths of the tiers: flushes are rolled up into the tier 'minute', those records into
    'hour', and those into 'day'."""
    node_keep_s: dict[str, float] = Field(default_factory=dict)
    """By tier, how long its records are kept once a higher tier holds them (second 300, minute
    7200, hour 86400). For the highest tier: how long the log is kept at all, which is for ever by
    default. A volume may have its own values."""
    node_keep_past_sites_after_s: float | None = Field(default=None, ge=0)
    """How much longer records are kept that a site hasn't applied. None: until it has applied
    them."""
    node_session_timeout_s: float = Field(default=6.0, ge=1)
    """A worker that sends no heartbeat for this long loses its partitions to the others. The
    default is the shortest that Kafka allows unless its group.min.session.timeout.ms is lower."""
    node_standbys: int = Field(default=1, ge=0)
    """How many other workers, if there are any, keep a copy of each partition's table, so that they
    take over at once."""
    node_commit_interval_s: float = Field(default=0.5, gt=0)
    node_block_cache_bytes: int = 32 << 20
    node_write_buffer_bytes: int = Field(default=16 << 20, ge=1 << 16)
    """What each partition's table gathers in memory before it goes to a file. Up to three such
    buffers wait for the disk."""
    node_table_file_s: float = Field(default=300.0, gt=0)
    """How often at the latest what a table gathers goes to a file. A worker that is killed reads
    what isn't in one from the changelog again, and `log rebuild --check` can't see it."""
    node_http: str = "127.0.0.1:0"
    """The address of the node's HTTP service, HOST:PORT, or `off`. Port 0 is a free port, which the
    node prints when it is ready."""
    node_http_token: str = Field(default="", repr=False)
    """The token that a request must carry (Authorization: Bearer). Without one, the node listens on
    the loopback address only. All workers need the same token."""
    node_http_token_file: Path | None = None
    """The file that holds the token, instead."""
    node_http_advertised: str = ""
    """The address http://HOST:PORT at which the other workers reach this one, if it isn't the
    address at which it listens."""
    node_http_queries: int = Field(default=4, ge=1, le=64)
    """How many queries are answered at a time. Clients of further ones are told to come back."""
    node_http_connections: int = Field(default=128, ge=1)
    """How many connections may be open at a time, or a quarter of the process's descriptors if that
    is less. Clients of further ones are told to come back."""
    node_http_client_connections: int = Field(default=64, ge=1)
    """How many of them may be of one address. Workers and proxies have one, too."""
    node_http_idle_s: float = Field(default=20.0, gt=0)
    """A connection that doesn't bring the whole header of a request within this time is closed."""
    node_http_wait_s: float = Field(default=30.0, ge=0)
    """The longest time that a query waits for the log to be complete."""

    http_certificate: Path | None = None
    """The certificate of this machine with its chain, as PEM. With it and `http_key`, the node, the
    dashboard and the metrics of hosts, sites and archivers are served over HTTPS."""
    http_key: Path | None = None
    """The key of that certificate, as PEM without a password."""
    http_ca: Path | None = None
    """The authorities, as PEM, that sign the certificates of clients. With it, all of these answer
    only clients with a certificate, and `changed --node` and other workers trust a node with one of
    theirs."""

    chain_dir: Path | None = None
    """The folder of the Merkle trees of the commands, which prove that none was altered
    (docs/proofs.md). The node grows them if it is set. The workers, and `mirrorlog audit`, may
    share the folder."""

    metrics: str = "off"
    """The address HOST:PORT at which a host, a site or an archiver serves its metrics to Prometheus
    (docs/metrics.md), or `off`. Port 0 is a free port, which is printed. The node serves its own at
    `node_http`."""
    metrics_token: str = Field(default="", repr=False)
    """The token that a request for metrics must carry (Authorization: Bearer). Without one, and
    without `http_ca`, metrics are served on the loopback address only. The node has
    `node_http_token`."""
    metrics_token_file: Path | None = None
    """The file that holds the token, instead."""
    metrics_volumes: int = Field(default=10_000, ge=0)
    """How many volumes of a site have metrics of their own. The sums cover all."""

    dashboard_http: str = "127.0.0.1:8090"
    """The address HOST:PORT at which `mirrorlog dashboard` serves its page. Port 0 is a free port,
    which is printed."""
    dashboard_http_token: str = Field(default="", repr=False)
    """The token with which a browser logs in. Without one, the dashboard listens on the loopback
    address only."""
    dashboard_http_token_file: Path | None = None
    """The file that holds the token, instead."""

    archive: str = ""
    """The archive of history (docs/archive.md): a folder, or s3://BUCKET/PREFIX. Questions read it
    for what Kafka no longer keeps."""
    archive_s3: dict[str, str] = Field(default_factory=dict, repr=False)
    """Options of an archive in S3: endpoint, region, access_key_id, and secret_access_key or the
    file secret_access_key_file. Without them, the variables AWS_* hold, and then the role of the
    machine."""
    archive_s3_credentials: Path | None = None
    """A file with the credentials, in the form of ~/.aws/credentials. Its profile `default` is
    used."""
    archive_keep_s: float = Field(default=365 * 86_400.0, ge=3600)
    """How long the commands topic keeps commands while archiving is on (`archive run`). What isn't
    archived is kept however old it is."""

    report_s: float = Field(default=2.0, gt=0)
    """A host, and a worker of the node, reports a change after this time at the earliest
    (`mirrorlog status`)."""
    report_idle_s: float = Field(default=10.0, gt=0)
    """How often they report if nothing changes."""

    site_volumes: tuple[str, ...] = ()
    """A site mirrors the volumes whose names match one of these patterns. Without patterns it
    mirrors those whose descriptions name it, and those whose descriptions name no site."""
    site_report_s: float = Field(default=1.0, gt=0)
    site_copy_bytes: int = Field(default=2 << 20, ge=4096)
    """Blocks are read and written in batches of up to this number of bytes."""
    site_chunk_bytes: int = Field(default=1 << 28, ge=4096)
    """After so many bytes, a copy of everything saves how far it is. A new start goes on there."""
    site_checksum: bool = False
    """A copy of everything reads the secondary, too, and writes only the blocks that differ."""
    site_seeds: tuple[str, ...] = ()
    """By patterns of volumes: their secondaries are seeds, copies that were put there by other
    means. The same is done with them, and one that is missing is never created."""
    site_primary_reader: Literal["site", "host"] = "site"
    """Who reads the primary for such a comparison: the site, or `mirrorlog host digest` beside it,
    so that only digests, and what differs, cross the line."""
    site_max_rate: str = "max"
    """How fast a site copies at most: `50MB/s`, `max`, `auto` or `auto:50MB/s`, which yield to the
    primary's own load, or by the local time of the day `08:00-18:00=auto,else=max`."""
    site_copy_threads: int = Field(default=4, ge=1, le=64)
    """How many batches a site copies at once."""
    site_remote_copy_threads: int = Field(default=16, ge=1, le=64)
    """The same if the primary or the secondary is reached over a network. What is under way hides
    its delay: as many batches should hold what the line carries in a round trip, twice."""
    site_consistency: Literal["crash", "eventual"] = "eventual"
    """`crash`: a cycle is staged in a journal and then applied as a whole, so a secondary that was
    consistent once stays at a consistent position. `eventual`: a cycle is applied while it is read,
    and the secondary is inconsistent meanwhile. docs/decisions/redo-journal.md says what `crash`
    costs."""
    site_journal_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """The largest journal of a secondary. A larger cycle is applied while it is read."""
    site_journal_dir: Path | None = None
    """The folder of the journals, on a disk of its own if wished. Without it they are in the folder
    `journals` of the site's state."""
    site_snapshot_s: float = Field(default=3.0, ge=0)
    """A site reads a cycle from a snapshot of the primary if the secondary wasn't proved consistent
    for this long. 0: every cycle. Only a primary that `host serve` exports has snapshots."""
    site_primaries: dict[str, str] = Field(default_factory=dict)
    """By volume, the address at which a site reads the primary, where that isn't the one in the
    volume's description. `*` holds for all other volumes, and `{volume}` in an address stands for
    the volume's name: `{"*": "nbds://primary.example/{volume}"}`."""
    site_secondaries: dict[str, str] = Field(default_factory=dict)
    """The same for the secondaries of a site."""

    _servers: BootstrapServers | None = PrivateAttr(default=None)
    _registry: RegistryAccess | None = PrivateAttr(default=None)

    @field_validator("kafka", "archive_s3")
    @classmethod
    def _read_secret_options(cls, options: dict[str, str]) -> dict[str, str]:
        return with_secrets_from_files(options)

    @field_validator(*SECRETS_BY_FILE)
    @classmethod
    def _check_secret_file(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and info.data.get(SECRETS_BY_FILE[str(info.field_name)]):
            raise ValueError("the setting without `_file` is set, too")
        if path is not None:
            secret = read_secret(path)
            if info.field_name == "host_key_file":
                _check_host_key(secret)
        return path

    @field_validator("host_key")
    @classmethod
    def _check_key(cls, key: str) -> str:
        if key:
            _check_host_key(key)
        return key

    @model_validator(mode="after")
    def _read_secret_files(self) -> Self:
        for name, secret in SECRETS_BY_FILE.items():
            if (path := getattr(self, name)) is not None:
                self.__dict__[secret] = read_secret(path)  # the model is frozen for everyone else
        return self

    @model_validator(mode="after")
    def _share_registry(self) -> Self:
        """Make what all Kafka clients with these settings share, once the secrets are read."""
        if self.schema_registry_url:
            self._registry = RegistryAccess(
                self.schema_registry_url,
                self.schema_registry_user_info,
                self.schema_registry_ca,
                self.state_dir / "schema-ids.json",
            )
        return self

    @field_validator("node_tiers_s")
    @classmethod
    def _check_tiers(cls, tiers_s: tuple[int, ...]) -> tuple[int, ...]:
        if any(low >= high for low, high in pairwise((0, *tiers_s))):
            raise ValueError("each tier must be longer than the one before it")
        return tiers_s

    @field_validator("node_keep_s")
    @classmethod
    def _check_tier_names(cls, keep_s: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(keep_s) - set(TIERS)):
            raise ValueError(
                f"there is no tier {', '.join(unknown)}: the tiers are {', '.join(TIERS)}"
            )
        return keep_s

    @property
    def node_folder(self) -> Path:
        """The folder of the worker's state.

        It is that of an earlier release's default name until a worker with today's default name has
        taken it over (streams/node_folder.py).
        """
        folder, old = self.state_dir / self.node_name, self.state_dir / OLD_NODE_NAME
        if self.node_name == default_node_name() and old.is_dir() and not folder.exists():
            return old
        return folder

    @property
    def primary_marks_dir(self) -> Path:
        """The folder of the marks that can't lie beside their primary (primary_marks.py)."""
        return self.state_dir / "primaries"

    @property
    def signer(self) -> CommandSigner | None:
        """What puts codes on the commands of this process; None without a host key."""
        if not self.host_key:
            return None
        return CommandSigner(self.topics.commands, parse_host_key(self.host_key))

    def new_session(self) -> str:
        """Return the id of a new session. With a host key, it belongs to the key's holder."""
        signer = self.signer
        return str(uuid4()) if signer is None else session_of(signer.key.holder, os.urandom(8))

    @property
    def confirms_recorded(self) -> bool:
        """Whether a host waits for the node instead of for Kafka.

        With a key it does: only the node says whether a command is authentic.
        """
        return self.host_confirm == "recorded" or bool(self.host_key)

    @property
    def topics(self) -> Topics:
        """The topics with the prefix."""
        mirror_prefix = self.kafka_mirror_prefix if self.kafka_mirror_of else ""
        return Topics(self.topic_prefix, self.kafka_mirrored_sites, mirror_prefix)

    def as_environment(self) -> dict[str, str]:
        """Return the environment variables that give a child process these settings.

        Only the process's owner can read them (proc(5), environ).
        """
        prefix = str(self.model_config["env_prefix"])
        values = self.model_dump(mode="json")
        return {
            f"{prefix}{name.upper()}": json.dumps(value)
            if isinstance(value, dict | list)
            else str(value)
            for name, value in values.items()
            if value is not None and name not in SECRETS_BY_FILE
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return what is given, and the environment: there are no other sources.

        By default each setting is also looked for in two kinds of files, which nobody names: a
        third of the time that settings take.
        """
        del settings_cls, dotenv_settings, file_secret_settings
        return init_settings, env_settings

    @property
    def servers(self) -> BootstrapServers:
        """The Kafka servers of these settings, and who named them."""
        addresses = self.kafka.get("bootstrap.servers", self.bootstrap_servers)
        if self._servers is not None and self._servers.addresses == addresses:
            return self._servers
        return BootstrapServers(
            addresses=addresses, given_by="the program", state_dir=self.state_dir
        )

    def with_servers(self, servers: BootstrapServers) -> Settings:
        """Return these settings with other servers."""
        settings = self.model_copy(update={"bootstrap_servers": servers.addresses})
        settings._servers = servers
        return settings

    def with_given_servers(self, addresses: str, given_by: str) -> Settings:
        """Return these settings with the servers at `addresses`, which `given_by` names."""
        kafka = {name: value for name, value in self.kafka.items() if name != "bootstrap.servers"}
        settings = self.model_copy(update={"kafka": kafka})
        return settings.with_servers(choose_servers(addresses, given_by, self.state_dir))

    def with_connect_within_s(self, connect_within_s: float | None) -> Settings:
        """Return these settings for clients that give up if nothing connects within this time.

        None: they wait as long as each request may take.
        """
        return self.with_servers(replace(self.servers, connect_within_s=connect_within_s))

    def kafka_client(self, **more: str | int | bool) -> dict[str, ClientValue]:
        """Return librdkafka's settings of a client, and under SERVERS_KEY who named the servers.

        Under REGISTRY_KEY is how the schema registry is reached, and under SIGNER_KEY what puts
        codes on commands, if there are such.

        They are the addresses, the user's settings, and `more`. Later ones overrule earlier ones.
        The clients of adapters/kafka take these three keys out.
        """
        return {
            "bootstrap.servers": self.bootstrap_servers,
            **self.kafka,
            SERVERS_KEY: self.servers,
            **({REGISTRY_KEY: self._registry} if self._registry is not None else {}),
            **({SIGNER_KEY: signer} if (signer := self.signer) is not None else {}),
            **more,
        }


def _check_host_key(key: str) -> None:
    """Raise ValueError, which shows no secret, if this is no host key."""
    try:
        parse_host_key(key)
    except BadUse as error:
        raise ValueError(error.what) from None


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings of one call, and by name where each of them comes from."""

    settings: Settings
    origins: Mapping[str, Origin]


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Load the settings from the file, the environment and the command line.

    overrides: settings of the command line, or of a program. Unless one of the three names Kafka
    servers, those of the state folder's embedded broker are used, if it has one.
    Raise BadUse for an unknown setting, a value that isn't accepted, or a file that can't be read.
    """
    return load_with_origins(path, overrides).settings


def load_with_origins(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> LoadedSettings:
    """Load the settings as load_settings() does, and say where each comes from."""
    loaded, problems = examine_settings(path, overrides)
    if problems:
        first, more = problems[0], len(problems) - 1
        further = f" {more} more: `mirrorlog config check` lists them." if more else ""
        raise BadUse(first.what, where=first.where, next=first.next + further)
    assert loaded is not None
    return loaded


def examine_settings(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[LoadedSettings | None, list[BadUse]]:
    """Return the settings, and all that is wrong.

    The settings are None if one of their values is wrong, or the file can't be read. Names that are
    no settings are left out of them.
    """
    try:
        text = path.read_text("utf-8") if path else ""
        from_file = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problem = BadUse(
            f"the configuration file can't be read: {error}",
            where=str(path),
            next="Correct the file, or name another with -c.",
        )
        return None, [problem]
    file = SettingsFile(str(path), text)
    known, given = set(Settings.model_fields), dict(overrides or {})
    variables = {
        name.upper().removeprefix(PREFIX).lower()
        for name in os.environ
        if name.upper().startswith(PREFIX)
    }
    origins = {
        name: Origin.OPTION
        if name in given
        else Origin.ENVIRONMENT
        if name in variables
        else Origin.FILE
        if name in from_file
        else Origin.DEFAULT
        for name in known
    }
    for by_file, secret in SECRETS_BY_FILE.items():
        if origins[by_file] is not Origin.DEFAULT:
            origins[secret] = origins[by_file]
    problems = [
        *unknown_variables(os.environ, known),
        *unknown_in_file(from_file, known, file),
    ]
    # Arguments overrule the environment, so a setting of the file is passed only if it has no
    # variable.
    passed = {name: value for name, value in from_file.items() if origins.get(name) is Origin.FILE}
    try:
        settings = Settings(**passed | given)
    except ValidationError as error:
        problems += [_problem(entry, origins, file) for entry in error.errors()]
        return None, problems
    except SettingsError as error:  # a variable that must hold JSON doesn't
        problems += [_not_json(name) for name in known if f'"{name}"' in str(error)]
        return None, problems
    settings = settings.with_servers(_servers_of(settings, origins, path))
    return LoadedSettings(settings, origins), problems


def _servers_of(
    settings: Settings, origins: Mapping[str, Origin], path: Path | None
) -> BootstrapServers:
    """Return the servers that the settings name; if they name none, those of the state folder."""
    given_by = {
        Origin.OPTION: "the program",
        Origin.ENVIRONMENT: variable_of("bootstrap_servers"),
        Origin.FILE: f"bootstrap_servers in {path}",
    }.get(origins["bootstrap_servers"])
    addresses = settings.bootstrap_servers
    if "bootstrap.servers" in settings.kafka:
        given_by, addresses = "the setting kafka", settings.kafka["bootstrap.servers"]
    return choose_servers(addresses if given_by else None, given_by, settings.state_dir)


def setting_form(name: str) -> SettingForm:
    """Return what is known of a setting: what it accepts, and whether it is a secret."""
    return form_of(name, Settings.model_fields[name])


def _problem(entry: Mapping[str, Any], origins: Mapping[str, Origin], file: SettingsFile) -> BadUse:
    name = str(entry["loc"][0])
    return wrong_value(
        name, entry["input"], problem_of(entry), origins[name], file, setting_form(name)
    )


def _not_json(name: str) -> BadUse:
    value = os.environ.get(variable_of(name), "")
    no_file = SettingsFile("", "")
    return wrong_value(name, value, "", Origin.ENVIRONMENT, no_file, setting_form(name))


_SERVICE_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def take_service_environment() -> dict[str, str]:
    """Return the variables by which systemd hears of this process (sd_notify(3)), and unset them.

    So no child process speaks in its name.
    """
    values = {name: os.environ.pop(name, None) for name in _SERVICE_VARIABLES}
    return {name: value for name, value in values.items() if value is not None}


def inherited_environment() -> dict[str, str]:
    """Return the environment for child processes."""
    return dict(os.environ)
