"""Partitions whose log doesn't follow their commands."""

from __future__ import annotations

from mirrorlog.consumers.resync.log_lag import ASK_S, LogFreshness, LogLag


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


def test_the_log_was_complete_when_the_ends_were_asked_for() -> None:
    fresh = LogFreshness()
    assert fresh.complete_us(0) is None
    fresh.note_ends({0: 5, 1: 0}, now_us=10)
    fresh.note_watermarks({0: 3})
    assert fresh.complete_us(0) is None
    assert fresh.complete_us(1) == 10  # there is no command
    # Asked again, while the log hasn't got to the end of the first question.
    fresh.note_ends({0: 9, 1: 0}, now_us=20)
    fresh.note_watermarks({0: 4})
    assert (fresh.complete_us(0), fresh.complete_us(1)) == (10, 20)
    # Kafka doesn't answer: nothing new is known, whatever the log holds.
    fresh.note_ends({}, now_us=30)
    fresh.note_watermarks({0: 99})
    assert fresh.complete_us(0) == 10
    fresh.note_ends({0: 100}, now_us=40)
    fresh.note_watermarks({0: 99})
    assert fresh.complete_us(0) == 40
