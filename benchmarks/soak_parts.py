"""The parts of a soak as real processes, with settings under which their disks soon stay as large.

By default history is kept for months, so a disk grows for months before it stays as large as it is.
Here everything that is kept for a time is kept for minutes: SETTINGS, TOPIC_SETTINGS and
BROKER_SETTINGS. Nothing else differs from the defaults.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from nbd_exports import make_image

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.broker.folder import BrokerFolder
from mirrorlog.broker_record import BrokerRecord
from mirrorlog.cli.demo.run import Run
from mirrorlog.processes.dies_with_parent import dies_with_parent
from mirrorlog.settings import Settings, inherited_environment, load_settings

MIB: Final = 1 << 20
START_S: Final = 120.0
VOLUMES: Final = {"served": 128 * MIB, "program": 64 * MIB, "seldom": 16 * MIB}
"""By name, the sizes: one behind `host serve`, and two that a program writes to by the API."""
SITES: Final = {"served": ("site-a", "site-b"), "program": ("site-a",), "seldom": ("site-a",)}
"""By volume, the sites that have a secondary of it."""
SHARES: Final = {"client": 0.75, "program": 0.25}
"""Who makes which share of the writes."""
SETTINGS: Final[Mapping[str, Any]] = {
    "node_tiers_s": (10, 30, 60),
    "node_keep_s": {"second": 10.0, "minute": 30.0, "hour": 60.0, "day": 120.0},
    "node_write_buffer_bytes": 1 << 19,
    "node_block_cache_bytes": 1 << 20,
}
"""Roll-ups after 10, 30 and 60 s. The log is kept for 2 minutes, and until it is applied. The
node's table is in files soon, and its cache full."""
_JVM_HEAP: Final = "-Xmx160m"
"""By default the JVM's heap may grow up to 512 MiB before old garbage is collected."""
_SHORT_SEGMENTS: Final = {"segment.ms": "20000", "file.delete.delay.ms": "1000"}
_COMPACTED: Final = {
    **_SHORT_SEGMENTS,
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "20000",
    "delete.retention.ms": "10000",
}
_KEPT_SHORTLY: Final = {**_SHORT_SEGMENTS, "retention.ms": "120000"}
BROKER_SETTINGS: Final[Mapping[str, str]] = {
    "log.retention.check.interval.ms": "10000",
    "log.cleaner.backoff.ms": "5000",
    "metadata.log.max.snapshot.interval.ms": "60000",
    "metadata.log.segment.ms": "60000",
    "metadata.max.retention.ms": "120000",
}


_EXPECTED: Final = re.compile(
    r"the node is ready|waiting for Kafka at|Kafka at \S+ answers|metrics at |is served at |"
    r"^stopped$|the dashboard is at |"
    r"counts as dirty as a whole: recovered|taking the rung 'allocated'|"
    r"^archiving to |keeps everything from now on|keeps what isn't archived|"
    r"^partition \d+: (Kafka keeps commands from|\d+ commands in) |"
    r"^backing up |: point \S+, consistent as of |: removed \S+$|Performing controller activation"
)
_LOUD: Final = re.compile(r"^\S+ (WARN|ERROR|FATAL) ")


def topic_settings(settings: Settings) -> dict[str, Mapping[str, str]]:
    """Return the settings of each topic, by name: statuses are kept for 2 minutes.

    The archiver deletes the commands that it has archived, once they are a minute old.
    """
    topics = settings.topics
    compacted = (
        topics.changelog,
        topics.volumes,
        topics.progress,
        topics.reports,
        "__consumer_offsets",
    )
    return {
        **dict.fromkeys(compacted, _COMPACTED),
        **dict.fromkeys((topics.status, topics.digests), _KEPT_SHORTLY),
        topics.commands: _SHORT_SEGMENTS,
    }


class _SoakFolder(BrokerFolder):
    def write_configuration(self, record: BrokerRecord) -> None:
        super().write_configuration(record)
        with (self.path / "server.properties").open("a") as file:
            file.writelines(f"\n{name}={value}" for name, value in BROKER_SETTINGS.items())


class SoakBroker(EmbeddedBroker):
    """The embedded Kafka with BROKER_SETTINGS."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        runtime = prepare_runtime(settings.cache_dir)
        options = tuple(
            _JVM_HEAP if option.startswith("-Xmx") else option for option in runtime.jvm_options
        )
        super().__init__(folder, replace(runtime, jvm_options=options))
        self.folder = _SoakFolder(folder)


class Soak:
    """The processes, by name, and what is known of them.

    folders: what each keeps on the disk, by its name. metrics_urls: where parts serve metrics.
    """

    def __init__(self, run: Run, broker: SoakBroker, writes_per_s: float) -> None:
        self.run, self.broker, self.writes_per_s = run, broker, writes_per_s
        self.metrics_urls: dict[str, str] = {}
        self.node_url = self.dashboard_url = ""
        self.writers: dict[str, subprocess.Popen[bytes]] = {}
        roles = ("node", "host", "program", "site-a", "site-b", "archive", "backup", "dashboard")
        self.folders: Final = {name: run.folder / name for name in ("broker", *roles)}

    @property
    def pids(self) -> dict[str, int]:
        """The process ids by the names of `folders`. The NBD client is none of mirrorlog's."""
        pids = {name: part.pid for name, part in self.run.parts.items()}
        return {"broker": self.broker.pid, **pids, "program": self.writers["program"].pid}

    @property
    def count_files(self) -> dict[str, Path]:
        """The files in which the writers count, by their names."""
        return {name: self.run.folder / f"{name}.count" for name in SHARES}

    def start(self) -> None:
        """Start all parts and then the writers, in the order in which they need each other."""
        primaries = self.run.folder / "primaries"
        primaries.mkdir()
        self._start_part("node", ["node"])
        for name, size_bytes in VOLUMES.items():
            make_image(primaries / f"{name}.img", size_bytes)
            options = ["--size", str(size_bytes), "--primary", str(primaries / f"{name}.img")]
            for site in SITES[name]:
                options += ["--secondary", f"{site}={self.run.folder}/{site}/{name}.img"]
            code, text = self.command("volume", "create", name, *options)
            if code:
                raise RuntimeError(text)
        socket = str(self.run.folder / "s")
        metrics = ["--metrics", "127.0.0.1:0"]
        served = self._start_part("host", ["host", "serve", "served", "--socket", socket, *metrics])
        export, folder = str(served["uri"]), self.run.folder
        self._start_part("site-a", ["site", "run", "site-a", "--dir", f"{folder}/site-a", *metrics])
        own = ["--primary", f"served={export}", "--consistency", "crash"]
        arguments = ["site", "run", "site-b", "--dir", f"{folder}/site-b", *own, *metrics]
        self._start_part("site-b", arguments)
        archive = ["--to", f"{folder}/archive", "--every", "5s", "--keep", "60s"]
        self._start_part("archive", ["archive", "run", *archive])
        backup = ["--to", f"{folder}/backup", "--every", "30s", "--keep-last", "3"]
        self._start_part("backup", ["backup", "run", "seldom", *backup])
        page = self._start_part("dashboard", ["dashboard", "--listen", "127.0.0.1:0"])
        self.dashboard_url = str(page["url"]).rstrip("/")
        self._start_writer("client", ["client", export])
        self._start_writer("program", ["program", "program", "seldom"])

    def _start_part(self, name: str, arguments: Sequence[str]) -> dict[str, Any]:
        """Start a part with a state folder of its own. Return its `ready` message."""
        run = self.run
        run.start_part(name, arguments, state_dir=run.folder / name)
        ready = run.wait_for(
            lambda message: message.part == name and message.message_type == "ready",
            START_S,
            self._note_url,
        )
        self.node_url = str(ready.get("http") or self.node_url)
        return ready

    def _note_url(self, message: Any) -> None:
        if message.message_type == "metrics":
            self.metrics_urls[message.part] = str(message.fields["url"])

    def _start_writer(self, name: str, arguments: Sequence[str]) -> None:
        settings = self.run.settings.model_copy(update={"state_dir": self.run.folder / name})
        script = str(Path(__file__).parent / "soak_writer.py")
        rate = str(SHARES[name] * self.writes_per_s)
        command = [sys.executable, script, *arguments, rate, str(self.count_files[name])]
        with (self.run.folder / f"{name}.log").open("ab") as log:
            self.writers[name] = subprocess.Popen(
                dies_with_parent(command),
                env={**inherited_environment(), **settings.as_environment()},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )

    def check(self) -> None:
        """Raise RuntimeError or PartFailed if a part has ended."""
        self.run.check()
        list(self.run.read_messages(0))
        ended = [name for name, writer in self.writers.items() if writer.poll() is not None]
        if ended or not self.broker.is_running:
            raise RuntimeError(f"ended: {ended or 'the broker'}; see {self.run.folder}")

    def stop_writers(self) -> None:
        """Let the writers close their volumes."""
        for writer in self.writers.values():
            writer.terminate()
            writer.wait(START_S)
        self.writers.clear()

    def command(self, *arguments: str) -> tuple[int, str]:
        """Run a `mirrorlog` command; return its exit code and what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "mirrorlog", *arguments],
            env={**inherited_environment(), **self.run.settings.as_environment()},
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@contextmanager
def started_soak(folder: Path, writes_per_s: float) -> Iterator[Soak]:
    """Yield the running parts, in `folder`, and stop them all at the end."""
    settings = load_settings(None, {"state_dir": folder, **SETTINGS})
    folder.mkdir(parents=True)
    with SoakBroker(folder / "broker", settings) as broker:
        servers = {"bootstrap_servers": broker.bootstrap_servers}
        with Run(folder, settings.model_copy(update=servers), own_broker=False) as run:
            run.start_broker()
            soak = Soak(run, broker, writes_per_s)
            try:
                soak.start()
                shorten_topics(run.settings)
                yield soak
            finally:
                soak.stop_writers()


def shorten_topics(settings: Settings) -> None:
    """Give the topics their settings."""
    with closing(KafkaAdmin(settings.kafka_client())) as admin:
        for name, config in topic_settings(settings).items():
            admin.set_config([name], config)


def unexpected_lines(folder: Path) -> list[str]:
    """Return the lines that a healthy run doesn't print, each with the part that printed it.

    Expected are the lines of a start and of an end, and the points and ranges that a backup and an
    archiver report. Of Kafka's own log, everything below a warning is expected.
    """
    lines = []
    for log in sorted(folder.glob("*.log")):
        for line in log.read_text("utf-8", "replace").splitlines():
            if not _EXPECTED.search(line):
                lines.append(f"{log.stem}: {line}")
    kafka = (folder / "broker" / "log" / "kafka.log").read_text("utf-8", "replace")
    lines += [
        f"broker: {line}"
        for line in kafka.splitlines()
        if _LOUD.search(line) and not _EXPECTED.search(line)
    ]
    return lines
