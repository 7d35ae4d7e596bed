"""HistoryBatch: many rows of a volume's history as numpy columns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from mirrorlog.history.definition import BY_NAME, COLUMNS, NUMBER_TYPES, ColumnType

Value = TypeVar("Value", bound=Hashable)
Rows: TypeAlias = "npt.NDArray[np.bool_] | npt.NDArray[np.int64]"
"""Chooses rows: a mask as long as the batch, or indexes."""
Forks: TypeAlias = tuple[tuple[str, str], ...]
"""Pairs of a site and the outcome there (definition.FORK_OUTCOMES), in the host's order."""


@dataclass(frozen=True, slots=True, eq=False)
class NumberColumn:
    """n numbers.

    values: of the type that the definition names; 0 where the value is null.
    known: which values aren't null; None if all are known.
    """

    values: npt.NDArray[Any]
    known: npt.NDArray[np.bool_] | None = None

    def take(self, rows: Rows) -> NumberColumn:
        """Return the column of those rows."""
        return NumberColumn(self.values[rows], None if self.known is None else self.known[rows])

    def to_list(self) -> list[int | None]:
        """Return the values as Python integers, None for null."""
        values: list[int | None] = self.values.tolist()
        if self.known is not None:
            for row in np.flatnonzero(~self.known).tolist():
                values[row] = None
        return values


@dataclass(frozen=True, slots=True, eq=False)
class DictionaryColumn(Generic[Value]):
    """n values, of which few differ.

    codes: i32, indexes into `dictionary`; -1 is null. The dictionary may hold values that no row
    has, and holds none twice.
    """

    codes: npt.NDArray[np.int32]
    dictionary: tuple[Value, ...]

    def take(self, rows: Rows) -> DictionaryColumn[Value]:
        """Return the column of those rows."""
        return DictionaryColumn(self.codes[rows], self.dictionary)

    def to_list(self) -> list[Value | None]:
        """Return the values, None for null."""
        values = (*self.dictionary, None)
        return [values[code] for code in self.codes.tolist()]

    def where(self, is_wanted: Callable[[Value], bool]) -> npt.NDArray[np.bool_]:
        """Return which values are wanted. Null never is. Each different value is looked at once."""
        # The last entry is what the code -1 picks.
        wanted = np.array([*map(is_wanted, self.dictionary), False], np.bool_)
        mask: npt.NDArray[np.bool_] = np.take(wanted, self.codes)
        return mask


Column: TypeAlias = "NumberColumn | DictionaryColumn[str] | DictionaryColumn[Forks]"


@dataclass(frozen=True, slots=True, eq=False)
class HistoryBatch:
    """Rows of one volume, in order, as columns by name (definition.COLUMNS, all of them).

    through: a position. With the batches before it, the batch holds all rows through it. A batch
    may be empty: it says how far the reader came.
    """

    columns: Mapping[str, Column]
    through: int

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.numbers("position").values)

    def numbers(self, name: str) -> NumberColumn:
        """Return a column of numbers. Raise TypeError for another one."""
        column = self.columns[name]
        if not isinstance(column, NumberColumn):
            raise TypeError(f"{name} is no column of numbers")
        return column

    def texts(self, name: str) -> DictionaryColumn[str]:
        """Return a column of texts. Raise TypeError for another one."""
        column = self.columns[name]
        if not isinstance(column, DictionaryColumn) or name == "forks":
            raise TypeError(f"{name} is no column of texts")
        return column  # type: ignore[return-value]  # `forks` alone holds anything else

    def take(self, rows: Rows) -> HistoryBatch:
        """Return the batch of those rows, with the same `through`."""
        taken = {name: column.take(rows) for name, column in self.columns.items()}
        return HistoryBatch(taken, self.through)

    def with_column(self, name: str, column: Column) -> HistoryBatch:
        """Return the batch with another column in the place of one."""
        return HistoryBatch({**self.columns, name: column}, self.through)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one dict a row, for tests and small answers. It costs Python work for each row."""
        lists = [column.to_list() for column in self.columns.values()]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*lists, strict=True)]


def empty_batch(through: int) -> HistoryBatch:
    """Return a batch without rows."""
    no_codes = np.zeros(0, np.int32)
    columns: dict[str, Column] = {
        column.name: NumberColumn(np.zeros(0, NUMBER_TYPES[column.type]))
        if column.type in NUMBER_TYPES
        else DictionaryColumn(no_codes, ())
        for column in COLUMNS
    }
    return HistoryBatch(columns, through)


def join_batches(batches: Sequence[HistoryBatch]) -> HistoryBatch:
    """Return consecutive batches as one. Raise ValueError without a batch."""
    if not batches:
        raise ValueError("no batches to join")
    if len(batches) == 1:
        return batches[0]
    columns: dict[str, Column] = {}
    for definition in COLUMNS:
        parts: list[Any] = [batch.columns[definition.name] for batch in batches]
        is_number = definition.type in NUMBER_TYPES
        columns[definition.name] = _join_numbers(parts) if is_number else _join_codes(parts)
    return HistoryBatch(columns, batches[-1].through)


def encode_values(values: Sequence[Value | None]) -> DictionaryColumn[Value]:
    """Return the column of these values, None for null."""
    numbers: dict[Value | None, int] = {None: -1}
    for value in values:
        numbers.setdefault(value, len(numbers) - 1)
    codes = np.fromiter((numbers[value] for value in values), np.int32, len(values))
    return DictionaryColumn(codes, tuple(value for value in numbers if value is not None))


def encode_numbers(name: str, values: Sequence[int | None]) -> NumberColumn:
    """Return the column of that name with these values, None for null."""
    known = np.fromiter((value is not None for value in values), np.bool_, len(values))
    dtype = NUMBER_TYPES[BY_NAME[name].type]
    return NumberColumn(np.array([value or 0 for value in values], dtype), known)


def _join_numbers(parts: Sequence[NumberColumn]) -> NumberColumn:
    known = None
    if any(part.known is not None for part in parts):
        known = np.concatenate(
            [np.ones(len(p.values), np.bool_) if p.known is None else p.known for p in parts]
        )
    return NumberColumn(np.concatenate([part.values for part in parts]), known)


def _join_codes(parts: Sequence[DictionaryColumn[Any]]) -> DictionaryColumn[Any]:
    if all(part.dictionary == parts[0].dictionary for part in parts):
        codes = np.concatenate([part.codes for part in parts])
        return DictionaryColumn(codes, parts[0].dictionary)
    numbers: dict[Any, int] = {}
    joined = []
    for part in parts:
        # The last entry is what the code -1 picks.
        new = [numbers.setdefault(value, len(numbers)) for value in part.dictionary]
        joined.append(np.array([*new, -1], np.int32)[part.codes])
    return DictionaryColumn(np.concatenate(joined), tuple(numbers))


def has_type(column: Column, kind: ColumnType) -> bool:
    """Return whether a column is stored as the definition's type demands."""
    if isinstance(column, NumberColumn):
        return kind in NUMBER_TYPES and column.values.dtype == NUMBER_TYPES[kind]
    return kind not in NUMBER_TYPES and column.codes.dtype == np.int32
