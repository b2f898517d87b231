"""An existing data set, divided anew."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np

from ..command_line import finished_folder
from .card import write_card
from .grouping import RowKey
from .reading import load_splits, read_split
from .split_files import SPLIT_FILE, write_split_file
from .subsets import with_subsets
from .summary import DatasetSummary
from .writing import ROWS_PER_GROUP, ROWS_PER_SHARD, RowWriter, shard_path

Division = tuple[Mapping[str, Sequence[int]], np.ndarray]  # row numbers by split, and the subset of every row


def read_splits(dataset: str | Path) -> dict[str, datasets.Dataset]:
    """All splits of a data set; see [`read_split`]."""
    return {split: read_split(dataset, split) for split in load_splits(dataset)}


def resplit(
    dataset: str | Path,
    folder: str | Path,
    divide: Callable[[Sequence[str], Sequence[RowKey]], Division],
    how: str,
) -> DatasetSummary:
    """Writes the rows of all splits of a data set into new splits, with a card and a file of the splits.

    The rows stay on disk; memory is for the sources and keys of all rows and for the structures of a few.

    Args:
        dataset: folder or Hub id.
        folder: must not exist or be empty.
        divide: from sources and keys of all rows to row numbers by split and the subset of every row.
        how: what was done, for the provenance.
    """
    with finished_folder(folder) as unfinished:
        rows = datasets.concatenate_datasets(list(read_splits(dataset).values())).with_format("arrow")
        sources, keys = _keys(rows)
        splits, subsets = divide(sources, keys)
        (unfinished / "data").mkdir()
        for split, numbers in splits.items():
            _write_split(rows, np.asarray(numbers), subsets, unfinished, split)
        write_split_file(unfinished / SPLIT_FILE, sources, keys, splits, subsets)
        return write_card(unfinished, {"divided": how}, name=Path(folder).name, like=dataset)


def _keys(rows: datasets.Dataset) -> tuple[list[str], list[RowKey]]:
    sources: list[str] = []
    keys: list[RowKey] = []
    names = ("source", "trajectory", "config_type")
    columns = rows.select_columns([*names, "forces"])
    for start in range(0, len(rows), ROWS_PER_GROUP):
        table = columns[start : start + ROWS_PER_GROUP]
        source, trajectory, kind = (table[name].fill_null("").to_pylist() for name in names)
        sources += source
        keys += map(RowKey, trajectory, kind, table["forces"].is_valid().to_pylist())
    return sources, keys


def _write_split(rows: datasets.Dataset, numbers: np.ndarray, subsets: np.ndarray, folder: Path, split: str) -> None:
    shards = np.split(numbers, range(ROWS_PER_SHARD, len(numbers), ROWS_PER_SHARD))
    for shard, wanted in enumerate(shards):
        with RowWriter(shard_path(folder, split, shard, len(shards))) as writer:
            for start in range(0, len(wanted), ROWS_PER_GROUP):
                block = wanted[start : start + ROWS_PER_GROUP]
                writer.write_table(with_subsets(rows[block], subsets[block]))
