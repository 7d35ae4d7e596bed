"""One run of broker, node, host and sites as real processes, in a folder of its own.

The demo uses it, and so do the integration tests.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.cli.support.create_topics import create_topics
from mirrorlog.errors import PartFailed
from mirrorlog.processes.child_processes import ChildMessage, ChildProcess, stop_all
from mirrorlog.settings import Settings, inherited_environment

# Ends only a run that would wait for ever: a part that fails ends by itself, and is seen at once.
_READY_S: Final = 300.0


class Run:
    """The parts of a run. Leaving the context stops them all, also after an error.

    folder: holds everything of the run, its data included. parts: the processes, by name.
    messages: what the processes have printed and nobody has read yet.
    own_broker: start an embedded broker; otherwise the run uses the cluster of the settings.
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
        """Stop every part but the worker `node`, then that one, then the broker."""
        stop_all([part for name, part in self.parts.items() if name != "node"])
        stop_all([part for name, part in self.parts.items() if name == "node"])
        if self.broker is not None:
            self.broker.stop()

    @property
    def settings(self) -> Settings:
        """The settings of every part."""
        return self._settings

    def start_broker(self, fetched: Callable[[int, int], None] | None = None) -> None:
        """Start the run's own broker, if it has one, and create the topics.

        fetched: called with (files there, files in all) while Kafka is fetched.
        """
        if self._own_broker:
            runtime = prepare_runtime(self._settings.cache_dir, on_progress=fetched)
            self.broker = EmbeddedBroker(self.folder / "broker", runtime)
            self.broker.start()
            self._settings = self._settings.model_copy(
                update={"bootstrap_servers": self.broker.bootstrap_servers}
            )
        create_topics(self._settings)

    def start_node(
        self, name: str = "node", *, part: str | None = None, state_dir: Path | None = None
    ) -> ChildProcess:
        """Start a worker of the node under `name`.

        part: its name in the run, if that isn't `name`. state_dir: by default that of the run.
        """
        folder = state_dir or self._settings.state_dir
        return self.start_part(part or name, ["node"], node_name=name, state_dir=folder)

    def start_host(self, trace: Path, trace_format: str, *options: str) -> ChildProcess:
        """Start a host that replays `trace`, with more `options` of `host replay`."""
        volumes = str(self.folder / "primary")
        arguments = ["host", "replay", str(trace), "--format", trace_format, "--dir", volumes]
        return self.start_part("host", [*arguments, *options])

    def start_site(self, name: str, *options: str, part: str | None = None) -> ChildProcess:
        """Start the site `name`, which keeps its secondaries in the folder of that name.

        options: more options of `site run`. part: its name in the run, if that isn't `name`.
        """
        folder = str(self.folder / name)
        return self.start_part(part or name, ["site", "run", name, "--dir", folder, *options])

    def start_part(self, name: str, arguments: Sequence[str], **overrides: object) -> ChildProcess:
        """Start the part with these arguments of mirrorlog, or start it again.

        overrides: settings of its own.
        """
        settings = self._settings.model_copy(update=overrides)
        environment = {**inherited_environment(), **settings.as_environment()}
        log_file = self.folder / f"{name}.log"
        part = self.parts.get(name) or ChildProcess(
            name, arguments, environment, log_file, self.messages
        )
        self.parts[name] = part
        part.start()
        return part

    def check(self) -> None:
        """Raise PartFailed if a part has ended by itself. Only the host may, with exit code 0."""
        for name, part in self.parts.items():
            part.check(may_end=name == "host")
        if self.broker is not None and not self.broker.is_running:
            raise PartFailed(
                "the broker ended by itself",
                where=str(self.broker.folder.log_file),
                next="See its log.",
            )

    def read_messages(self, timeout_s: float = 0.1) -> Iterator[ChildMessage]:
        """Yield what the parts have printed; wait up to `timeout_s` for the first message."""
        try:
            yield self.messages.get(timeout=timeout_s)
            while True:
                yield self.messages.get_nowait()
        except queue.Empty:
            return

    def wait_for(
        self,
        is_wanted: Callable[[ChildMessage], bool],
        deadline_s: float = _READY_S,
        on_message: Callable[[ChildMessage], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Return the fields of the first message that `is_wanted` accepts.

        on_message: called with each message until then.
        Errors: PartFailed if a part ends by itself, or no such message comes within `deadline_s`.
        """
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            for message in self.read_messages():
                on_message(message)
                if is_wanted(message):
                    return dict(message.fields)
            self.check()
        raise PartFailed(
            f"the message that was waited for didn't come within {deadline_s:g} s",
            where=str(self.folder),
        )

    def wait_ready(self, *parts: str) -> None:
        """Wait until each of `parts` has printed its `ready` message."""
        waiting = set(parts)

        def all_ready(message: ChildMessage) -> bool:
            if message.message_type == "ready":
                waiting.discard(message.part)
            return not waiting

        self.wait_for(all_ready)
