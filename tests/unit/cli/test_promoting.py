"""What a promotion would mean, as programs read it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from notation import record, volume

from mirrorlog.cli.support.promoting import claim_fields
from mirrorlog.consumers.failover.claims import SecondaryClaim
from mirrorlog.consumers.failover.held_secondary import HeldSecondary
from mirrorlog.consumers.failover.lost_writes import lost_writes
from mirrorlog.tracking_log.coverage import VolumeLog

HELD = cast(HeldSecondary, SimpleNamespace(address="file:///v.img"))


def test_what_is_lost_has_its_blocks_and_positions() -> None:
    log = VolumeLog()
    log.add(record("4..9", "2 3"))
    claim = SecondaryClaim(consistent_position=4, parted_position=4, reason=None)
    fields = claim_fields("b", HELD, claim, lost_writes(volume(), log, after=4, through=9))
    assert (fields["site"], fields["secondary"]) == ("b", "file:///v.img")
    assert (fields["consistent_position"], fields["reason"]) == (4, None)
    lost = cast(dict[str, object], fields["lost"])
    assert (lost["after_position"], lost["through_position"], lost["blocks"]) == (4, 9, 2)


def test_what_nobody_knows_is_null() -> None:
    claim = SecondaryClaim(consistent_position=None, parted_position=None, reason="unfinished")
    fields = claim_fields("b", HELD, claim, None)
    assert (fields["consistent_position"], fields["lost"]) == (None, None)
    assert fields["reason"] == "unfinished"
