"""The order of the tests: long ones begin first, so that no worker ends with one alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def long_first(items: Sequence[T], is_long: Callable[[T], bool], workers: int) -> list[T]:
    """Return the items in the order in which pytest-xdist's `worksteal` runs the long ones first.

    It gives each of the workers one contiguous part of the tests, in order. A worker that has none
    left takes the last half of another's. So each part begins with its share of the long tests.
    """
    long_items = [item for item in items if is_long(item)]
    others = [item for item in items if not is_long(item)]
    ordered: list[T] = []
    for worker in range(workers):
        share = long_items[worker::workers]
        size = (len(items) - len(ordered)) // (workers - worker)
        rest, others = others[: max(size - len(share), 0)], others[max(size - len(share), 0) :]
        ordered += share + rest
    return ordered + others
