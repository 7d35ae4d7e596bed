"""A volume's description as commands print it: a row, lines for people, or fields for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.tables import Column
from mirrorlog.domain.volumes import Volume
from mirrorlog.units import format_duration, format_size

LIST_COLUMNS: Final = (
    Column("VOLUME", wraps=True),
    Column("SIZE", right=True),
    Column("BLOCK", right=True),
    Column("STATE"),
    Column("PARTITION", right=True),
    Column("PRIMARY", wraps=True),
    Column("SECONDARIES", wraps=True),
    Column("GROUP", wraps=True),
)


def list_row(volume: Volume) -> tuple[str, ...]:
    """Return the cells of LIST_COLUMNS."""
    return (
        volume.volume,
        format_size(volume.size_bytes),
        format_size(volume.block_size),
        volume.state,
        str(volume.partition),
        volume.primary,
        ", ".join(sorted(volume.secondaries)),
        volume.group or "",
    )


def described_volume(volume: Volume) -> list[tuple[str, str]]:
    """Return the description as `volume show` prints it for people."""
    fields = {
        name: value for name, value in volume_fields(volume).items() if value not in (None, ())
    }
    secondaries, keep_s = fields.pop("secondaries"), fields.pop("keep_s")
    fields |= {f"secondary {site}": address for site, address in secondaries.items()}
    fields |= {f"keep {tier}": format_duration(keep) for tier, keep in keep_s.items()}
    fields["ended_sessions"] = ", ".join(fields.get("ended_sessions", ())) or "none"
    sizes = [
        f"{earlier['size_bytes']} before position {earlier['before_position']}"
        for earlier in fields.pop("earlier_sizes", ())
    ]
    fields |= {"earlier_sizes": "; ".join(sizes)} if sizes else {}
    promotions = [
        f"site {promotion['site']} at position {promotion['position']}, "
        f"{format_time(promotion['at_us'])}"
        for promotion in fields.pop("promotions", ())
    ]
    fields |= {"promotions": "; ".join(promotions)} if promotions else {}
    for name in ("size_bytes", "block_size"):
        fields[name] = f"{fields[name]} ({format_size(fields[name])})"
    return [(name.replace("_", " "), _in_words(value)) for name, value in fields.items()]


def _in_words(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def volume_fields(volume: Volume) -> dict[str, Any]:
    """Return the description as `--json` prints it."""
    fields = asdict(volume)
    name, created_at_us = fields.pop("volume"), fields.pop("created_at_us")
    recorded_since_us = fields.pop("recorded_since_us")
    return {
        "volume": name,
        **fields,
        "created_at": format_time(created_at_us) if created_at_us else None,
        "recorded_since": None if recorded_since_us is None else format_time(recorded_since_us),
    }
