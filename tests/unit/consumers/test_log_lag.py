"""Partitions whose log doesn't follow their commands."""

from __future__ import annotations

from mirrorlog.consumers.resync.log_lag import ASK_S, LogLag


def test_the_log_has_until_the_next_time_to_get_where_the_commands_ended() -> None:
    lag = LogLag()
    assert lag.is_due(0.0)
    lag.note_ends({0: 5, 1: 0}, 0.0)
    assert not lag.is_due(ASK_S - 1)
    assert lag.lagging({}) == {}  # the node has just not written them yet
    lag.note_ends({0: 9, 1: 0}, ASK_S)
    assert lag.lagging({}) == {0: 4}
    assert lag.lagging({0: 3}) == {0: 4}
    assert lag.lagging({0: 4}) == {}  # the end of now counts the next time
    lag.note_ends({}, 2 * ASK_S)
    assert lag.lagging({0: 4}) == {0: 8}
    lag.note_ends({}, 3 * ASK_S)
    assert lag.lagging({0: 4}) == {}  # Kafka doesn't answer: nothing is known
