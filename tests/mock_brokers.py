"""A cluster of brokers that librdkafka mimics in this process, of which single ones can be lost.

The functions are those of librdkafka's rdkafka_mock.h. The wheel of confluent-kafka exports them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import confluent_kafka
import pytest

_PRODUCER: Final = 0
_ERROR_BYTES: Final = 512
_POINTER, _NUMBER, _TEXT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "conf_new": (_POINTER, ()),
    "new": (_POINTER, (ctypes.c_int, _POINTER, _TEXT, ctypes.c_size_t)),
    "destroy": (None, (_POINTER,)),
    "mock_cluster_new": (_POINTER, (_POINTER, ctypes.c_int)),
    "mock_cluster_destroy": (None, (_POINTER,)),
    "mock_cluster_bootstraps": (_TEXT, (_POINTER,)),
    "mock_topic_create": (_NUMBER, (_POINTER, _TEXT, ctypes.c_int, ctypes.c_int)),
    "mock_coordinator_set": (_NUMBER, (_POINTER, _TEXT, _TEXT, _NUMBER)),
    "mock_set_controller_id": (_NUMBER, (_POINTER, _NUMBER)),
    "mock_partition_set_leader": (_NUMBER, (_POINTER, _TEXT, _NUMBER, _NUMBER)),
    "mock_broker_set_down": (_NUMBER, (_POINTER, _NUMBER)),
}
"""The result and the arguments of each function, without its prefix rd_kafka_."""


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    file = next(folder.glob("librdkafka*"), None)
    if file is None:
        pytest.skip("confluent-kafka was built with a librdkafka of the system")
    library = ctypes.CDLL(str(file))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class MockBrokers:
    """Brokers 1 to 3. One of them leads all: the controller, each partition, each group.

    servers: the brokers' addresses.
    """

    def __init__(self, library: ctypes.CDLL, cluster: int, topic: str, groups: list[str]) -> None:
        self._library, self._cluster, self._topic, self._groups = library, cluster, topic, groups
        self.servers = self._ask("cluster_bootstraps").decode()
        self._ask("topic_create", topic.encode(), 1, 3)
        self.lead(1)

    def _ask(self, name: str, *arguments: object) -> Any:
        return getattr(self._library, f"rd_kafka_mock_{name}")(self._cluster, *arguments)

    def lead(self, broker: int) -> None:
        """Make the broker the one that leads all."""
        self._ask("set_controller_id", broker)
        self._ask("partition_set_leader", self._topic.encode(), 0, broker)
        for group in self._groups:
            self._ask("coordinator_set", b"group", group.encode(), broker)

    def lose(self, broker: int) -> None:
        """Close the broker's connections, and take no more."""
        self._ask("broker_set_down", broker)


@contextmanager
def mock_brokers(topic: str, *, groups: list[str]) -> Iterator[MockBrokers]:
    """Yield three brokers with a topic of one partition."""
    library = _library()
    error = ctypes.create_string_buffer(_ERROR_BYTES)
    owner = library.rd_kafka_new(_PRODUCER, library.rd_kafka_conf_new(), error, _ERROR_BYTES)
    assert owner, error.value
    cluster = library.rd_kafka_mock_cluster_new(owner, 3)
    try:
        yield MockBrokers(library, cluster, topic, groups)
    finally:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(owner)
