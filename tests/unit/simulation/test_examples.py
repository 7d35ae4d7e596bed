"""The examples in the package's docstring run and give the output that they show."""

from __future__ import annotations

import doctest

from mirrorlog import simulation
from mirrorlog.simulation import world


def test_the_examples_of_the_package_run() -> None:
    result = doctest.testmod(simulation)
    assert result.failed == 0
    assert result.attempted > 10


def test_the_example_of_the_world_runs() -> None:
    result = doctest.testmod(world)
    assert result.failed == 0
    assert result.attempted == 6
