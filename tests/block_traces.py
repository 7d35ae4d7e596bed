"""Recordings of the kernel's block tracer in one-line notation: blktrace's bytes, blkparse's text.

    8-17 A W 2048+8 < 8-17 0; 8-17 Q W 2048+8; D R 16+8; X W 0+16 / 8; D W pc 512 8a; Q FWS

Each event has a device (8-16 if it names none), an action, rwbs, and what belongs to the action: a
range in sectors; `< device sector` from which a remap comes, and `> device` to which it goes
if that isn't the recorded device; the sector where a request is split; `pc`, the bytes and the
first byte of a command that is passed through. `cpu=1`, `seq=9` and `ms=3` may be at the end;
without `seq`, the events of a device on a CPU are numbered from 1 on, and the number is the time.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field

from import_cases import event, tc

_ACTIONS = ("Q", "M", "F", "G", "S", "R", "D", "C", "P", "U", "UT", "I", "X", "B", "A")
_CATEGORIES = {**dict.fromkeys("QMFGSPUIA", 4), "R": 5, "D": 6, "C": 7}
_FLAGS = {"A": 11, "S": 3, "M": 12}
_COMMAND_BYTES = 16


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """One event of the notation. sector, sectors: None if it names no range."""

    device: str
    action: str
    rwbs: str
    sector: int | None = None
    sectors: int = 0
    remapped: tuple[str, int] | None = None
    remapped_to: str | None = None
    split_at: int | None = None
    passed_bytes: int | None = None
    command: int | None = None
    options: dict[str, int] = field(default_factory=dict)
    sequence: int = 0

    @property
    def cpu(self) -> int:
        return self.options.get("cpu", 0)

    @property
    def time_ms(self) -> int:
        return self.options.get("ms", self.sequence)


def recorded(notation: str) -> list[RecordedEvent]:
    """Return the events of the notation."""
    numbers: Counter[tuple[str, int]] = Counter()
    events = []
    for entry in filter(None, map(str.strip, notation.replace("\n", ";").split(";"))):
        parsed = _parsed(entry.split())
        key = (parsed.device, parsed.cpu)
        numbers[key] = parsed.options.get("seq", numbers[key] + 1)
        events.append(
            RecordedEvent(
                **{name: getattr(parsed, name) for name in RecordedEvent.__slots__[:-1]},
                sequence=numbers[key],
            )
        )
    return events


def _parsed(words: list[str]) -> RecordedEvent:
    device = words.pop(0) if "-" in words[0] else "8-16"
    action, rwbs, *rest = words
    options = {}
    while rest and "=" in rest[-1]:
        name, _, value = rest.pop().partition("=")
        options[name] = int(value)
    fields: dict[str, object] = {}
    if rest[:1] == ["pc"]:
        fields["passed_bytes"] = int(rest[1])
        fields["command"] = int(rest[2], 16) if len(rest) > 2 else None
    elif rest:
        sector, _, sectors = rest[0].partition("+")
        fields |= {"sector": int(sector), "sectors": int(sectors)}
        match rest[1:]:
            case ["/", at]:
                fields["split_at"] = int(at)
            case ["<", from_device, from_sector, *to]:
                fields["remapped"] = (from_device, int(from_sector))
                fields["remapped_to"] = to[1] if to else device
    return RecordedEvent(device, action, rwbs, options=options, **fields)  # type: ignore[arg-type]


def blktrace_bytes(notation: str, *, version: int = 7, order: str = "<") -> bytes:
    """Return the events as blktrace writes them."""
    return b"".join(_binary(one, version, order) for one in recorded(notation))


def _binary(one: RecordedEvent, version: int, order: str) -> bytes:
    action = _ACTIONS.index(one.action) + 1
    categories = [_CATEGORIES[one.action[0]]] if one.action[0] in _CATEGORIES else []
    preflush = one.rwbs.startswith("F")
    operation, *flags = one.rwbs[preflush:]
    categories += [2] * preflush + [15] * ("F" in flags) + [_FLAGS[f] for f in flags if f != "F"]
    categories += {"R": [0], "N": [0], "W": [1], "D": [1, 13]}[operation]
    data = b""
    if one.passed_bytes is not None:
        categories.append(9)
        data = b"" if one.command is None else bytes([one.command]).ljust(_COMMAND_BYTES, b"\0")
    elif one.remapped is not None:
        numbers = _number(one.remapped[0]), _number(one.remapped_to or one.device)
        data = struct.pack(">IIQ", *numbers, one.remapped[1])
    elif one.split_at is not None:
        data = struct.pack(">Q", one.split_at)
    elif one.action in ("U", "UT"):
        data = struct.pack(">Q", 1)
    return event(
        one.sequence,
        action | sum({tc(bit) for bit in categories}),
        one.sector or 0,
        one.sectors * 512 if one.passed_bytes is None else one.passed_bytes,
        device=_number(one.device),
        cpu=one.cpu,
        time_ns=one.time_ms * 1_000_000,
        data=data,
        version=version,
        order=order,
    )


def _number(device: str) -> int:
    major, minor = map(int, device.split("-"))
    return major << 20 | minor


def blkparse_text(notation: str) -> bytes:
    """Return the events as blkparse 1.2.0 prints them."""
    return "".join(_line(one) for one in recorded(notation)).encode()


def _line(one: RecordedEvent) -> str:
    shown = one.remapped_to or one.device
    major, minor = shown.split("-")
    head = (
        f"{major:>3},{minor:<3} {one.cpu:2} {_signed(one.sequence):8} "
        f"{one.time_ms // 1000:5}.{one.time_ms % 1000 * 1_000_000:09} "
        f"{77:5} {one.action:>2} {one.rwbs:>3} "
    )
    return f"{head}{_rest(one)}\n"


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


def _rest(one: RecordedEvent) -> str:
    end = "[0]" if one.action in ("C", "R") else "[dd]"
    if one.passed_bytes is not None:
        command = "" if one.command is None else f"({one.command:02x}{_zeros(one.command)}) "
        return f"{'' if end == '[0]' else f'{one.passed_bytes} '}{command}{end}"
    if one.remapped is not None:
        device, sector = one.remapped
        return f"{one.sector} + {one.sectors} <- ({device.replace('-', ',')}) {sector}"
    if one.split_at is not None:
        return f"{one.sector} / {one.split_at} {end}"
    if one.action in ("U", "UT"):
        return f"{end} 1"
    if one.sectors:
        return f"{one.sector} + {one.sectors} {end}"
    return f"{one.sector or 0} {end}" if end == "[0]" else end


def _zeros(command: int) -> str:
    """Return how blkparse shows the other bytes of a command, which are zero here."""
    return " 00 .." if command else " .."
