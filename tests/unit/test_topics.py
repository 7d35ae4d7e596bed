"""How the topics are made: acknowledged must mean durable (invariant 12), and the log must stay."""

from __future__ import annotations

import pytest

from mirrorlog.topics import Topics

STATE = ("volumes", "commands", "quarantine", "changelog")
COMPACTED = ("volumes", "changelog", "progress")


def configs(*, single_copy: bool) -> dict[str, dict[str, str]]:
    return {spec.name: dict(spec.config) for spec in Topics("p.").specs(single_copy=single_copy)}


@pytest.mark.parametrize("name", STATE)
def test_a_single_copy_flushes_each_message_of_the_topics_that_hold_state(name: str) -> None:
    topic = getattr(Topics("p."), name)
    assert configs(single_copy=True)[topic]["flush.messages"] == "1"
    assert "flush.messages" not in configs(single_copy=False)[topic]


def test_what_is_compacted_is_never_deleted_by_age_and_all_share_the_prefix() -> None:
    found = configs(single_copy=True)
    assert {name for name, config in found.items() if config["cleanup.policy"] == "compact"} == {
        getattr(Topics("p."), name) for name in COMPACTED
    }
    assert all(name.startswith("p.") for name in found)
    assert all(
        "retention.ms" in config
        for config in found.values()
        if config["cleanup.policy"] == "delete"
    )
