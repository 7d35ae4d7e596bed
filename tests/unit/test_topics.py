"""The settings of the topics: acknowledged means durable (invariant 12), time is the broker's (15).

The changelog has no retention.
"""

from __future__ import annotations

import pytest

from mirrorlog.topics import Topics

STATE = ("volumes", "commands", "quarantine", "changelog")
COMPACTED = ("volumes", "changelog", "progress", "reports", "verifications")


def configs(*, single_copy: bool) -> dict[str, dict[str, str]]:
    return {spec.name: dict(spec.config) for spec in Topics("p.").specs(single_copy=single_copy)}


@pytest.mark.parametrize("name", STATE)
def test_a_single_copy_flushes_each_message_of_the_topics_with_state(name: str) -> None:
    topic = getattr(Topics("p."), name)
    assert configs(single_copy=True)[topic]["flush.messages"] == "1"
    assert "flush.messages" not in configs(single_copy=False)[topic]


def test_compacted_topics_have_no_retention_and_all_topics_share_the_prefix() -> None:
    by_name = configs(single_copy=True)
    assert {name for name, config in by_name.items() if config["cleanup.policy"] == "compact"} == {
        getattr(Topics("p."), name) for name in COMPACTED
    }
    assert all(name.startswith("p.") for name in by_name)
    assert all(
        "retention.ms" in config
        for config in by_name.values()
        if config["cleanup.policy"] == "delete"
    )


@pytest.mark.parametrize("single_copy", [False, True])
def test_every_topic_holds_the_brokers_time(single_copy: bool) -> None:
    assert {
        config.get("message.timestamp.type") for config in configs(single_copy=single_copy).values()
    } == {"LogAppendTime"}


def test_topics_that_commands_read_whole_are_compacted_in_small_segments() -> None:
    by_name = configs(single_copy=True)
    assert {
        name: int(config["segment.bytes"])
        for name, config in by_name.items()
        if "segment.bytes" in config
    } == dict.fromkeys(("p.progress", "p.reports", "p.verifications"), 16 << 20)
