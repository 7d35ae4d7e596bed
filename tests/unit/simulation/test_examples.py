"""The examples in the package's docstring run and give the output that they show."""

from __future__ import annotations

import doctest

from mirrorlog import simulation


def test_the_examples_of_the_package_run() -> None:
    result = doctest.testmod(simulation)
    assert result.failed == 0
    assert result.attempted > 10
