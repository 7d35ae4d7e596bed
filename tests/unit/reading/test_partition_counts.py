"""The topics that are read together by partition have equally many partitions, or nobody starts."""

from __future__ import annotations

import pytest

from mirrorlog.errors import KafkaFailed
from mirrorlog.reading.partition_counts import (
    check_partition_counts,
    check_unchanged,
    partition_count,
)
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics

TOPICS = Topics("t.")


def test_the_number_of_partitions_is_that_of_every_topic() -> None:
    broker = MemoryBroker()
    broker.create(TOPICS.specs(single_copy=True), 3)
    assert partition_count(broker, TOPICS) == 3


@pytest.mark.parametrize("grown", ["commands", "log", "status"])
def test_partitions_that_were_added_to_one_topic_are_an_error(grown: str) -> None:
    counts = {name: 2 + (name == grown) for name in ("commands", "log", "status")}
    with pytest.raises(KafkaFailed, match=f"topic {grown}: 3") as refused:
        check_partition_counts(counts)
    assert "so that each has 3" in refused.value.next


def test_partitions_that_were_added_to_all_topics_need_a_new_worker() -> None:
    counts = {"commands": 3, "log": 3}
    assert check_unchanged(counts, 3) == 3
    with pytest.raises(KafkaFailed, match="have 3 partitions now, and had 2") as refused:
        check_unchanged(counts, 2)
    assert "Start every worker again" in refused.value.next
