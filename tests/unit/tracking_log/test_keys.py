"""Keys of the changelog."""

from __future__ import annotations

from notation import record

from mirrorlog.tracking_log.heads import PositionTime, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import (
    head_key,
    key_kind,
    position_time_key,
    record_key,
    watermark_key,
)
from mirrorlog.tracking_log.records import LogRecord


def test_keys_sort_by_volume_tier_and_position_and_name_their_kind() -> None:
    keys = [record_key(record(span)) for span in ("-1..4", "4..9", "255..256", "256..70000")]
    assert keys == sorted(keys)
    assert len({*keys, record_key(record("-1..9")), record_key(record("-1..4/1of2"))}) == 6
    assert key_kind(keys[0]) is LogRecord
    assert key_kind(head_key("v")) is VolumeHead
    assert key_kind(watermark_key(3)) is Watermark
    assert key_kind(position_time_key(3, at_us=5_000_000)) is PositionTime
    assert key_kind(b"\x02r") is key_kind(b"\x01?") is None
