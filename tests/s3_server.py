"""A real S3 server (Versity's gateway, from Go's registry), and a line to it that breaks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Final

import pytest
from deadlines import wait_until

VERSION: Final = "v1.8.0"
KEY, SECRET = "testkey", "testsecret12"


def gateway() -> Path:
    """Return the server, built once and kept in the user's cache. Skip the test without Go."""
    if shutil.which("go") is None:
        pytest.skip("an S3 server is built by Go, which isn't installed")
    folder = Path.home() / ".cache" / "mirrorlog-tests" / f"versitygw-{VERSION}"
    if not (folder / "versitygw").exists():
        module = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
        built = subprocess.run(
            ["go", "install", module],
            env={**os.environ, "GOBIN": str(folder), "GOFLAGS": "-modcacherw"},
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            pytest.skip(f"the S3 server can't be built: {built.stderr[-200:]}")
    return folder / "versitygw"


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """Run the server with an empty bucket `bucket`; yield its port."""
    (folder / "data" / "bucket").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [gateway(), "--port", f"127.0.0.1:{port}", "posix", str(folder / "data")],
            env={**os.environ, "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: _answers(port))
        yield port
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def options(port: int) -> dict[str, str]:
    """Return the client's settings for the server, or for a line to it."""
    return {
        "endpoint": f"http://127.0.0.1:{port}",
        "region": "us-east-1",
        "access_key_id": KEY,
        "secret_access_key": SECRET,
    }


class BreakingLine:
    """A TCP proxy that breaks connections in the middle of requests and of answers.

    cut_requests, cut_answers: the probability that a connection is cut after some bytes of the
    request, and that the server gets the whole request and the client none of the answer.
    """

    def __init__(self, port: int, random: Random) -> None:
        self.cut_requests = self.cut_answers = 0.0
        self.cuts = 0
        self._to, self._random = port, random
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        request_bytes, answer_bytes = 1 << 60, 1 << 60
        chance = self._random.random()
        if chance < self.cut_requests:
            request_bytes = self._random.randrange(1, 4000)
        elif chance < self.cut_requests + self.cut_answers:
            answer_bytes = 0
        with client, socket.create_connection(("127.0.0.1", self._to)) as server:
            back = threading.Thread(
                target=self._copy, args=(server, client, answer_bytes), daemon=True
            )
            back.start()
            self._copy(client, server, request_bytes)
            back.join()

    def _copy(self, source: socket.socket, target: socket.socket, limit: int) -> None:
        copied = 0
        with suppress(OSError):
            while data := source.recv(65_536):
                if copied + len(data) > limit:
                    self.cuts += 1
                    target.sendall(data[: max(0, limit - copied)])
                    break
                target.sendall(data)
                copied += len(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
