"""`changed` on a mirror answers what the source proves, and refuses what only the source knows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mirrored_topics import TOPICS, Mirror, V
from notation import command, promotion

from mirrorlog.changed.divergence import read_divergence
from mirrorlog.changed.points import AtEnd, AtOrigin, AtPosition, parse_point
from mirrorlog.codec.events import encode
from mirrorlog.domain.volume_states import apply
from mirrorlog.errors import BadUse, KafkaFailed, OutOfRetention, WrongCluster


def test_what_the_source_proves_is_answered_through_its_end() -> None:
    assert Mirror().ask(AtOrigin(), AtEnd()) == ({1, 2}, 11)
    assert Mirror().ask(AtPosition(4), AtEnd()) == ({2}, 11)
    assert Mirror().ask(AtOrigin(), AtPosition(4)) == ({1}, 4)


def test_the_middle_of_a_record_times_and_barriers_need_the_source() -> None:
    with pytest.raises(OutOfRetention, match="in the middle of a log record"):
        Mirror().ask(AtPosition(2), AtEnd())
    for point in ("barrier:b", "1970-01-01T00:00:05Z"):
        with pytest.raises(BadUse, match="times and barriers mean nothing"):
            Mirror().ask(parse_point(point, 10**9), AtEnd())


def test_without_an_answer_nothing_is_answered() -> None:
    with pytest.raises(KafkaFailed, match="the source of the mirror didn't answer"):
        Mirror(answers=False).ask(AtOrigin(), AtEnd())


def test_a_third_clusters_volume_is_refused() -> None:
    mirror = Mirror()
    other = replace(V, cluster="third", described_position=99)
    mirror.broker.append(TOPICS.volumes, 0, b"v", encode(other))
    with pytest.raises(WrongCluster, match="to be a mirror of cluster source"):
        mirror.ask(AtOrigin(), AtEnd())


def test_a_mirror_does_not_say_which_side_wrote_what() -> None:
    """It may hold the commands, at other positions than those that a promotion names."""
    promoted = apply(V, promotion(parted_position=2), 9)
    mirror = Mirror(described=replace(promoted, described_position=9))
    for block in range(8):
        mirror.broker.append(TOPICS.commands, 0, b"v", encode(command(f"{block * 4096}+4096")))
    with pytest.raises(BadUse, match="a mirror keeps no positions of the commands") as refused:
        read_divergence("v", None, mirror.ports(), 30.0)
    assert "--bootstrap-servers" in refused.value.next
    assert "--since @2" in refused.value.next
