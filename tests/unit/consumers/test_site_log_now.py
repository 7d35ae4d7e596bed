"""What a promotion would lose is read from a mirror of the log as far as its source proves it."""

from __future__ import annotations

import pytest
from mirrored_topics import Mirror, V

from mirrorlog.consumers.failover.claims import claim_of
from mirrorlog.consumers.failover.lost_writes import lost_writes
from mirrorlog.consumers.failover.site_log_now import SiteLogNow, read_mirrored_log
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.errors import KafkaFailed


def read(mirror: Mirror) -> SiteLogNow:
    questions = mirror.questions()
    log = mirror.log_reader(questions, "b")
    return read_mirrored_log(log, questions, V, "b", mirror.clock, 30.0)


def test_the_log_is_complete_through_the_commands_at_the_source() -> None:
    mirror = Mirror()
    now = read(mirror)
    assert now.through == 11
    saved = SecondaryState("v", V.generation, applied_position=4, consistent_position=4)
    claim = claim_of(saved, V, now.log)
    assert claim.consistent_position == 4
    lost = lost_writes(V, now.log.volume, after=4, through=now.through)
    assert (set(lost.blocks), lost.is_complete) == ({2}, True)


def test_a_source_that_does_not_answer_proves_nothing() -> None:
    with pytest.raises(KafkaFailed, match="the source of the mirror didn't answer"):
        read(Mirror(answers=False))
