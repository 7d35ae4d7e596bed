"""Batches of a history's rows keep values, nulls and types when rows are taken and joined."""

from __future__ import annotations

import numpy as np
import pytest

from mirrorlog.domain.commands import ForkOutcome
from mirrorlog.history.batches import (
    DictionaryColumn,
    HistoryBatch,
    NumberColumn,
    empty_batch,
    encode_values,
    has_type,
    join_batches,
)
from mirrorlog.history.definition import BY_NAME, COLUMNS, FORK_OUTCOMES, NUMBER_TYPES


def batch(positions: list[int], hosts: list[str | None], through: int) -> HistoryBatch:
    """Return rows with these positions and hosts; the sequence of odd positions is null."""
    rows, numbers = len(positions), np.array(positions, np.uint64)
    columns = {
        column.name: NumberColumn(np.zeros(rows, NUMBER_TYPES[column.type]))
        if column.type in NUMBER_TYPES
        else DictionaryColumn(np.full(rows, -1, np.int32), ())
        for column in COLUMNS
    }
    columns["position"] = NumberColumn(numbers)
    columns["sequence"] = NumberColumn(numbers.astype(np.int64), numbers % 2 == 0)
    columns["host"] = encode_values(hosts)
    return HistoryBatch(columns, through)


def test_an_empty_batch_has_every_column_in_its_type() -> None:
    empty = empty_batch(7)
    assert (empty.rows, empty.through) == (0, 7)
    assert list(empty.columns) == [column.name for column in COLUMNS]
    for name, column in empty.columns.items():
        assert has_type(column, BY_NAME[name].type), name


def test_joined_batches_keep_every_value_and_null() -> None:
    huge = (1 << 64) - 1
    one, two = batch([2, 3], ["a", None], 3), batch([4, huge], ["b", "a"], huge)
    joined = join_batches([one, two])
    assert joined.through == huge
    assert joined.numbers("position").to_list() == [2, 3, 4, huge]
    assert joined.numbers("sequence").to_list() == [2, None, 4, None]
    assert joined.texts("host").to_list() == ["a", None, "b", "a"]
    assert joined.to_dicts() == [*one.to_dicts(), *two.to_dicts()]
    for name, column in joined.columns.items():
        assert has_type(column, BY_NAME[name].type), name


def test_rows_are_taken_by_mask_and_by_index() -> None:
    whole = batch([2, 3, 4], ["a", None, "b"], 9)
    rows = whole.to_dicts()
    assert whole.take(np.array([True, False, True])).to_dicts() == [rows[0], rows[2]]
    assert whole.take(np.array([1])).to_dicts() == [rows[1]]


def test_a_column_is_asked_for_by_its_type() -> None:
    whole = batch([2], ["a"], 2)
    with pytest.raises(TypeError):
        whole.numbers("host")
    with pytest.raises(TypeError):
        whole.texts("position")
    with pytest.raises(TypeError):
        whole.texts("forks")


def test_the_names_of_outcomes_are_the_wire_s() -> None:
    assert [FORK_OUTCOMES[outcome] for outcome in ForkOutcome] == [
        outcome.name.lower() for outcome in ForkOutcome
    ]
