"""What `topics list` says of one topic."""

from __future__ import annotations

import pytest

from mirrorlog.cli.support.topics_view import TopicState, topic_state

# copies of each partition | settings | cells behind the name
CASES = """
3 3 3 | cleanup.policy=compact retention.ms=604800000        | 3 3 9 the newest of each key
3 1   | cleanup.policy=delete retention.ms=86400000          | 2 1 9 1 d
1     | cleanup.policy=delete retention.ms=-1                | 1 1 9 all
1     | cleanup.policy=compact,delete retention.ms=3600000   | 1 1 9 the newest of each key, 1 h
1     |                                                      | 1 1 9 ?
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_a_topic_says_what_it_keeps(case: str) -> None:
    copies, settings, expected = (part.strip() for part in case.split("|"))
    config = dict(part.split("=") for part in settings.split())
    state = topic_state("t", [int(number) for number in copies.split()], 9, config)
    assert " ".join(state.cells()) == f"t {expected}"


def test_nothing_is_known_of_a_topic_that_does_not_exist() -> None:
    state = TopicState("t")
    assert {name for name, value in state.fields().items() if value is not None} == {
        "name",
        "exists",
    }
    assert "topics create" in state.cells()[-1]
