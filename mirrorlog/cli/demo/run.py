"""One whole run in a folder of its own: broker, node, host and sites as real processes."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare
from mirrorlog.cli.support.create_topics import create_topics
from mirrorlog.errors import PartFailed
from mirrorlog.processes.child_processes import ChildMessage, ChildProcess, stop_all
from mirrorlog.settings import Settings, inherited_environment

_READY_S: Final = 90.0


class Run:
    """Starts parts, listens to them, and stops them all when it is left, however it is left.

    folder: everything of the run, its data included. Without `own_broker` the settings' cluster is used.
    """

    def __init__(self, folder: Path, settings: Settings, *, own_broker: bool) -> None:
        self.folder = folder
        self.parts: dict[str, ChildProcess] = {}
        self.messages: queue.SimpleQueue[ChildMessage] = queue.SimpleQueue()
        self.broker: EmbeddedBroker | None = None
        self._own_broker = own_broker
        self._settings = settings.model_copy(update={"state_dir": folder})

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stop_all([part for name, part in self.parts.items() if name != "node"])
        stop_all([part for name, part in self.parts.items() if name == "node"])
        if self.broker is not None:
            self.broker.stop()

    @property
    def settings(self) -> Settings:
        """The settings of every part."""
        return self._settings

    def start_broker(self, fetched: Callable[[int, int], None] | None = None) -> None:
        """Starts the embedded broker where the run has one of its own, and makes the topics.

        fetched: called with (jars there, jars in all) where Kafka has to be fetched first.
        """
        if self._own_broker:
            runtime = prepare(self._settings.cache_dir, on_progress=fetched)
            self.broker = EmbeddedBroker(self.folder / "broker", runtime)
            self.broker.start()
            self._settings = self._settings.model_copy(
                update={"bootstrap_servers": self.broker.bootstrap_servers}
            )
        create_topics(self._settings, self._settings.partitions)

    def start_node(self, name: str = "node") -> ChildProcess:
        """Starts the node, or one more worker of it under a name of its own."""
        return self._start(name, ["node"], node_name=name)

    def start_host(self, trace: Path, trace_format: str, *more: str) -> ChildProcess:
        """Starts a host that replays `trace`."""
        volumes = str(self.folder / "primary")
        return self._start(
            "host",
            ["host", "replay", str(trace), "--format", trace_format, "--dir", volumes, *more],
        )

    def start_site(self, name: str) -> ChildProcess:
        """Starts a site."""
        return self._start(name, ["site", "run", name, "--dir", str(self.folder / name)])

    def _start(self, name: str, arguments: list[str], **more: str) -> ChildProcess:
        settings = self._settings.model_copy(update=more)
        environment = {**inherited_environment(), **settings.as_environment()}
        log_file = self.folder / f"{name}.log"
        part = self.parts.get(name) or ChildProcess(
            name, arguments, environment, log_file, self.messages
        )
        self.parts[name] = part
        part.start()
        return part

    def check(self) -> None:
        """PartFailed where a part ended by itself; only the host may end well."""
        for name, part in self.parts.items():
            part.check(may_end=name == "host")
        if self.broker is not None and not self.broker.is_running:
            raise PartFailed(
                "the broker ended by itself",
                where=str(self.broker.folder.log_file),
                next="See its log.",
            )

    def read_messages(self, timeout_s: float = 0.1) -> Iterator[ChildMessage]:
        """What the parts said; waits up to `timeout_s` for the first."""
        try:
            yield self.messages.get(timeout=timeout_s)
            while True:
                yield self.messages.get_nowait()
        except queue.Empty:
            return

    def wait_for(
        self,
        wanted: Callable[[ChildMessage], bool],
        deadline_s: float = _READY_S,
        heard: Callable[[ChildMessage], None] = lambda _: None,
    ) -> dict[str, Any]:
        """The fields of the first message that is `wanted`; PartFailed where a part dies or the deadline passes."""
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            for message in self.read_messages():
                heard(message)
                if wanted(message):
                    return dict(message.fields)
            self.check()
        raise PartFailed(
            f"nothing came within {deadline_s:g} s of what was waited for", where=str(self.folder)
        )

    def wait_ready(self, *parts: str) -> None:
        """Returns when each of the parts has said that it is ready."""
        waiting = set(parts)

        def all_ready(message: ChildMessage) -> bool:
            if message.message_type == "ready":
                waiting.discard(message.part)
            return not waiting

        self.wait_for(all_ready)
