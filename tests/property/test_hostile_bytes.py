"""Whatever bytes a decoder gets, it returns a value or raises an error of its own, in bounds.

`make fuzz MINUTES=60` looks for longer, from another seed each time, and prints the seed.
"""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_bytes import DECODERS, Decoder, damaged

MINUTES = float(os.environ.get("MIRRORLOG_FUZZ_MINUTES", "0"))
TRIES = 250
BYTES_MAX = 48 << 20
"""What a decoder may take for an input of at most 100 KB, its caches included."""


def numbers() -> Iterator[int]:
    """Yield the seeds of the tries: the same in each run, or new ones for so many minutes."""
    if not MINUTES:
        yield from range(TRIES)
        return
    until = time.monotonic() + MINUTES * 60 / len(DECODERS)
    while time.monotonic() < until:
        yield random.SystemRandom().getrandbits(48)


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_damaged_bytes_give_a_value_or_an_error_of_mirrorlog(
    decoder: Decoder, tmp_path: Path
) -> None:
    seeds = decoder.seeds()
    for seed in seeds:
        attempt(decoder, seed, tmp_path, "a seed itself")
    tracemalloc.start()
    try:
        for number in numbers():
            rng = random.Random(number)
            attempt(decoder, damaged(rng.choice(seeds), seeds, rng), tmp_path, f"seed {number}")
    finally:
        tracemalloc.stop()


def attempt(decoder: Decoder, data: bytes, folder: Path, what: str) -> None:
    """Decode once. Fail, and say how to repeat it, for another error or too much memory."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        decoder.run(data, folder)
    except decoder.errors:
        pass
    except BaseException as error:
        raise AssertionError(f"{decoder.name}, {what}: {error!r} for {data[:200]!r}") from error
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < BYTES_MAX, f"{decoder.name}, {what}: {peak - before} bytes"
