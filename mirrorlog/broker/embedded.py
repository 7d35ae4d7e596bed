"""Apache Kafka as a child process: one node, on loopback addresses, with its data in one folder."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from mirrorlog.broker import ports
from mirrorlog.broker.artifacts import KAFKA_VERSION
from mirrorlog.broker.folder import BrokerFolder, summarize_lines
from mirrorlog.broker.kafka_versions import check_kafka_version
from mirrorlog.broker.runtime import Runtime
from mirrorlog.broker_record import LOOPBACK, BrokerRecord
from mirrorlog.errors import BadUse, KafkaFailed, PartFailed
from mirrorlog.processes.dies_with_parent import dies_with_parent as wrap_command

_log = logging.getLogger(__name__)
ASK_WITHIN_S: Final = 0.25
KILLED_WITHIN_S: Final = 10.0
FIRST_LINE_S: Final = 1.0
"""After this time on_waiting is called, and then whenever the time has doubled."""


def new_cluster_id() -> str:
    """Return a random UUID as org.apache.kafka.common.Uuid writes it: URL-safe base64, no padding.

    It never begins with '-', because a command line would take it for an option.
    """
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith(
        "-"
    ):
        pass
    return text


class EmbeddedBroker:
    """One Kafka broker. It keeps its port and its data in `state_dir`.

    With dies_with_parent (on Linux) the broker is killed when this process ends in any way, and
    also when the **thread** that called `start` ends: start it from the main thread. Without, it
    runs on in a session of its own.
    """

    def __init__(
        self,
        state_dir: Path,
        runtime: Runtime,
        *,
        port: int | None = None,
        dies_with_parent: bool = True,
    ) -> None:
        if port is not None and not 0 < port < 65536:
            raise BadUse(f"{port} isn't a port", next="Name a port from 1 to 65535.")
        self.folder = BrokerFolder(state_dir)
        self._runtime = runtime
        self._port = port
        self._dies_with_parent = dies_with_parent
        self._record: BrokerRecord | None = None
        self._process: psutil.Popen | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients, `host:port`. BadUse before the first start."""
        return self._last_record().bootstrap_servers

    @property
    def pid(self) -> int:
        """The id of the process that was started last. BadUse before the first start."""
        return self._last_record().pid or 0

    @property
    def is_running(self) -> bool:
        """Return whether the process runs. It may not answer."""
        return self._process is not None and self._process.poll() is None

    def start(
        self, deadline_s: float = 60.0, on_waiting: Callable[[str, float], None] | None = None
    ) -> None:
        """Start Kafka and return when it answers.

        on_waiting: called with the address and the seconds since Kafka's start, after a second and
            then at growing intervals, while Kafka doesn't answer yet.

        1. Lock the folder, so that two brokers never share it.
        2. Log a warning if an older Kafka has used the data: it can't use them afterwards.
        3. Choose the ports: the requested one, the recorded ones, or free ones. Record them.
        4. Write the configuration.
        5. Format the data folder if it is new, and record the version of Kafka.
        6. Start Kafka, which inherits the lock. Record its process, and close this process's end of
           the lock.
        7. Ask until it answers as the cluster of this folder.

        Raise KafkaFailed if the folder or the port is in use, if the data can't be formatted, or if
        Kafka doesn't answer before the deadline. Raise PartFailed, with the last lines of its log,
        if the process ends. No process is left then. Raise BadUse if the broker runs already, or if
        a newer Kafka has used the data.
        """
        if self.is_running:
            raise BadUse(
                f"the embedded Kafka with process id {self.pid} runs already",
                where=str(self.folder.path),
                next="Use it, or stop it first.",
            )
        deadline = time.monotonic() + deadline_s
        try:
            lock = self.folder.lock()
            try:
                self._check_version()
                record = self._choose_ports()
                self.folder.write_configuration(record)
                self._format(deadline)
                self.folder.write_kafka_version(KAFKA_VERSION)
                logged_bytes = (
                    self.folder.log_file.stat().st_size if self.folder.log_file.exists() else 0
                )
                self._spawn(record, lock)
            finally:
                os.close(lock)
            self._await_answer(deadline, logged_bytes, on_waiting)
        except OSError as error:
            self.kill()
            raise KafkaFailed(
                f"the embedded Kafka couldn't be started: {error}",
                where=str(self.folder.path),
                next="Correct that, or name another folder with --state-dir.",
            ) from error
        except BaseException:
            self.kill()
            raise

    def stop(self, deadline_s: float = 30.0) -> None:
        """Stop Kafka with SIGTERM, and with SIGKILL at the deadline. Do nothing if it doesn't
        run."""
        if self._process is not None:
            end_process(self._process, deadline_s)

    def kill(self) -> None:
        """Kill Kafka with SIGKILL, as a crash would."""
        if self._process is not None:
            end_process(self._process, 0)

    def restart(self, deadline_s: float = 60.0) -> None:
        """Stop Kafka if it runs, and start it on the same port and data."""
        self.stop()
        self.start(deadline_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _last_record(self) -> BrokerRecord:
        if self._record is None:
            raise BadUse(
                "the embedded Kafka hasn't been started",
                where=str(self.folder.path),
                next="Call start() first.",
            )
        return self._record

    def _check_version(self) -> None:
        used_by = self.folder.kafka_version()
        if used_by and (
            notice := check_kafka_version(used_by, KAFKA_VERSION, str(self.folder.path))
        ):
            _log.warning("%s", notice)

    def _choose_ports(self) -> BrokerRecord:
        recorded = self.folder.record()
        port = self._port or (recorded.port if recorded else ports.choose_free())
        if not ports.is_free(port):
            raise KafkaFailed(
                f"another program listens on port {port}, which the embedded Kafka needs",
                where=f"{LOOPBACK}:{port}",
                next="End that program, or name another port with --port.",
            )
        # Only Kafka itself uses the controller's port. So it may change if it is in use.
        controller_port = recorded.controller_port if recorded else 0
        if controller_port in (0, port) or not ports.is_free(controller_port):
            controller_port = ports.choose_free(taken=(port,))
        record = BrokerRecord(port=port, controller_port=controller_port)
        self.folder.write_record(record)
        return record

    def _format(self, deadline: float) -> None:
        if self.folder.cluster_id() is not None:
            return
        cluster_id = new_cluster_id()
        arguments = (
            "format",
            "--standalone",
            "--cluster-id",
            cluster_id,
            "--config",
            "server.properties",
        )
        try:
            done = subprocess.run(
                self._command("kafka.tools.StorageTool", *arguments),
                cwd=self.folder.path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                timeout=max(deadline - time.monotonic(), 0.1),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self._no_answer("formatting its data folder took too long") from error
        if done.returncode != 0 or self.folder.cluster_id() is None:
            output = summarize_lines(done.stdout.decode(errors="replace").splitlines())
            raise KafkaFailed(
                f"Kafka's data folder couldn't be formatted "
                f"(exit status {done.returncode}): {output}",
                where=str(self.folder.path),
                next="Correct the reported problem, or name another folder with --state-dir.",
            )

    def _command(self, main_class: str, *arguments: str) -> list[str]:
        settings = (
            f"-Djava.io.tmpdir={self.folder.path / 'tmp'}",
            "-Dlog4j2.configurationFile=log4j2.properties",
        )
        runtime = replace(self._runtime, jvm_options=(*self._runtime.jvm_options, *settings))
        command = runtime.command(main_class, *arguments)
        return wrap_command(command) if self._dies_with_parent else command

    def _spawn(self, record: BrokerRecord, lock: int) -> None:
        with self.folder.output_file.open("wb") as output:
            # In its own session, so that Ctrl-C on the terminal reaches only the process that
            # started the broker, which then stops it in order.
            self._process = psutil.Popen(
                self._command("kafka.Kafka", "server.properties"),
                cwd=self.folder.path,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,
            )
        self._record = replace(record, pid=self._process.pid, created_s=self._process.create_time())
        self.folder.write_record(self._record)

    def _await_answer(
        self,
        deadline: float,
        logged_bytes: int,
        on_waiting: Callable[[str, float], None] | None = None,
    ) -> None:
        cluster_id = self.folder.cluster_id()
        began_s, line_after_s = time.monotonic(), FIRST_LINE_S
        client = silent_client(self.bootstrap_servers)
        while (answer := answering_cluster_id(client)) != cluster_id:
            if not self.is_running:
                raise PartFailed(
                    f"the embedded Kafka ended while starting ({self._describe_end()}); "
                    f"the last lines of its log: {self.folder.last_log_lines(logged_bytes)}",
                    where=str(self.folder.log_file),
                    next="Read the log.",
                )
            waited_s = time.monotonic() - began_s
            if on_waiting is not None and waited_s >= line_after_s:
                on_waiting(self.bootstrap_servers, waited_s)
                line_after_s *= 2
            if time.monotonic() > deadline:
                other = (
                    f"another cluster, {answer}, answers"
                    if answer
                    else "it runs but doesn't answer"
                )
                lines = self.folder.last_log_lines(logged_bytes)
                raise self._no_answer(f"{other}; the last lines of its log: {lines}")

    def _describe_end(self) -> str:
        status = self._process.poll() if self._process else None
        return (
            f"signal {-status}"
            if isinstance(status, int) and status < 0
            else f"exit status {status}"
        )

    def _no_answer(self, why: str) -> KafkaFailed:
        return KafkaFailed(
            f"the embedded Kafka didn't answer before the deadline: {why}",
            where=str(self.folder.log_file),
            next="Allow a longer deadline on a machine under load. Otherwise read the log.",
        )


def end_process(process: psutil.Process, deadline_s: float) -> bool:
    """End a process with SIGTERM, and with SIGKILL at the deadline. Return whether SIGTERM
    sufficed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if deadline_s > 0:
            process.terminate()
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(deadline_s)
                return True
        process.kill()
        # The wait is limited: a process whose parent hasn't reaped it (a zombie) has ended too.
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(KILLED_WITHIN_S)
        return False
    return True


def silent_client(bootstrap_servers: str) -> AdminClient:
    """Return a client for a broker that may not run. It prints nothing to stderr."""
    return AdminClient(
        {
            "bootstrap.servers": bootstrap_servers,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 50,
            "log_level": 0,
        }
    )


def answering_cluster_id(client: AdminClient, within_s: float = ASK_WITHIN_S) -> str | None:
    """Return the id of the cluster that answers; None if none does, or it has no ready broker."""
    try:
        metadata = client.list_topics(timeout=within_s)
    except KafkaException:
        return None
    return str(metadata.cluster_id) if metadata.brokers else None
