"""Nested parts of the train split, for error against amount of data."""

from collections import Counter
from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import InputError
from .grouping import Group, RowKey, groups, shuffled

Division = tuple[Mapping[str, Sequence[int]], np.ndarray]  # row numbers by split, and the subset of every row
SUBSETS = (1, 3, 10, 30, 100)  # percent of the train split; each holds the smaller ones


def train_subsets(keys: Sequence[RowKey], splits: Mapping[str, Sequence[int]], seed: int = 0) -> np.ndarray:
    """The smallest subset of the train split that each row is in: (rows,) float32 in percent, NaN outside of train.

    Trajectories are never divided, each subset has every config type in about its share, and structures with forces
    and those with an energy alone are drawn separately. As in [`assign_rows`], the order of the rows does not matter.

    Args:
        keys: of all rows.
        splits: row numbers by split name, as [`assign_rows`] returns them.
    """
    subsets = np.full(len(keys), np.nan, dtype=np.float32)
    found = groups(keys, splits.get("train", ()))
    for has_forces in (True, False):
        ordered = _proportional_order([group for group in found if group.has_forces == has_forces], seed)
        total = sum(len(group.rows) for group in ordered)
        before = 0
        for group in ordered:
            # Half of a trajectory on either side of the border rounds to the nearest; the first is in every subset.
            share = 100 * (before + len(group.rows) / 2) / total if before else 0
            subsets[group.rows] = next(percent for percent in SUBSETS if share <= percent)
            before += len(group.rows)
    return subsets


def _proportional_order(found: list[Group], seed: int) -> list[Group]:
    """Random order in which every beginning has the config types in about the shares of the whole."""
    ordered = shuffled(found, seed)
    totals: Counter[str] = Counter()
    for group in ordered:
        totals[group.config_type] += len(group.rows)
    before: Counter[str] = Counter()
    places = []
    for group in ordered:
        places.append((before[group.config_type] + len(group.rows) / 2) / totals[group.config_type])
        before[group.config_type] += len(group.rows)
    return [ordered[place] for place in np.argsort(places, kind="stable")]


def with_subsets(table: pa.Table, subsets: np.ndarray) -> pa.Table:
    """The rows of a table with these values (rows,) of [`train_subsets`] in the column `subset`; NaN becomes null."""
    column = pa.array(subsets, pa.float32(), from_pandas=True)
    return table.set_column(table.column_names.index("subset"), table.schema.field("subset"), column)


def select_subset(rows: datasets.Dataset, percent: float) -> datasets.Dataset:
    """The rows of the nested subset of so many percent.

    Args:
        rows: the train split, as [`read_split`] returns it.
        percent: one of `SUBSETS`; 100 is always all of them.

    Raises:
        InputError: if there is no such subset, or the data set has none.
    """
    if percent not in SUBSETS:
        raise InputError(f"there is no subset of {percent:g} %; there are {', '.join(map(str, SUBSETS))}")
    if percent == 100:
        return rows
    column = rows.select_columns(["subset"]).with_format("arrow")[:]["subset"]
    if column.null_count:
        raise InputError(
            "the rows have no nested subsets; data_scripts/split_dataset.py writes them for the train split"
        )
    return rows.select(np.flatnonzero(pc.less_equal(column, percent).to_numpy()))
