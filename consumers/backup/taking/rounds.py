"""Backups of several volumes, again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.clock import Clock


def run_rounds(
    volumes: Sequence[str],
    back_up: Callable[[str], None],
    *,
    every_s: float,
    clock: Clock,
    rest: Callable[[float], object],
    on_error: Callable[[str, MirrorlogError], None],
) -> NoReturn:
    """Back the volumes up, one after the other, every `every_s` from the start of a round on.

    A round that takes longer is followed by the next one at once. An error of one volume is told,
    and the others go on; the next round tries it again.

    back_up: backs one volume up. rest: waits for a number of seconds. Whatever else they raise ends
    it, as KeyboardInterrupt does.
    """
    while True:
        begin_s = clock.monotonic_s()
        for volume in volumes:
            try:
                back_up(volume)
            except MirrorlogError as error:
                on_error(volume, error)
        rest(max(0.0, begin_s + every_s - clock.monotonic_s()))
