"""A closed client leaves no thread of librdkafka: one in a TLS handshake crashes at exit."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

import pytest

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.errors import KafkaFailed


def librdkafka_threads() -> set[str]:
    """Return the ids of librdkafka's threads in this process."""
    threads = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            if (task / "comm").read_text().startswith("rdk:"):
                threads.add(task.name)
    return threads


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="/proc shows the threads")
def test_the_threads_end_although_an_error_refers_to_the_client() -> None:
    before = librdkafka_threads()
    with pytest.raises(KafkaFailed) as failed, closing(KafkaAdmin(DEAD, 0.1)) as admin:
        assert librdkafka_threads() - before
        admin.cluster_id()
    assert failed.value.__traceback__ is not None  # its frames hold the client
    assert librdkafka_threads() - before == set()


def test_a_closed_client_refuses_requests() -> None:
    admin = KafkaAdmin(DEAD, 0.1)
    admin.close()
    admin.close()
    with pytest.raises(KafkaFailed, match="closed"):
        admin.cluster_id()


DEAD = {"bootstrap.servers": "127.0.0.1:1"}
