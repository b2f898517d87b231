"""splits.csv: which split every row is in, so that other data sets of the same structures can be divided alike."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import InputError
from .grouping import RowKey
from .splitting import split_name
from .subsets import SUBSETS

SPLIT_FILE = "splits.csv"
_COLUMNS = ("source", "trajectory", "config_type", "split", "subset")


def write_split_file(
    path: Path,
    sources: Sequence[str],
    keys: Sequence[RowKey],
    splits: Mapping[str, Sequence[int]],
    subsets: np.ndarray,
) -> None:
    """Writes one line per row, split by split.

    Args:
        sources: the `source` of every row.
        splits: row numbers by split name.
        subsets: (rows,) as [`train_subsets`] returns them.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for split, rows in splits.items():
            for row in rows:
                subset = "" if np.isnan(subsets[row]) else f"{subsets[row]:g}"
                writer.writerow((sources[row], keys[row].trajectory, keys[row].config_type, split, subset))


def read_split_file(
    path: str | Path, sources: Sequence[str], keys: Sequence[RowKey]
) -> tuple[dict[str, list[int]], np.ndarray]:
    """Divides rows as a file of [`write_split_file`] says, by their source; further lines of the file are not used.

    Returns:
        Row numbers by split name, and the subset of every row as in [`train_subsets`].

    Raises:
        InputError: if the file is missing or no such file, says two things of a source, lacks a row, or divides a
            trajectory.
    """
    lines = _lines(Path(path))
    splits: dict[str, list[int]] = {}
    subsets = np.full(len(keys), np.nan, dtype=np.float32)
    of_trajectory: dict[str, str] = {}
    for row, (source, key) in enumerate(zip(sources, keys, strict=True)):
        if source not in lines:
            raise InputError(f"{path} has no line for the source {source!r}; divide the data set without --split-file")
        split, subset = lines[source]
        if of_trajectory.setdefault(key.trajectory, split) != split:
            raise InputError(f"{path} divides the trajectory {key.trajectory!r} between {split} and another split")
        splits.setdefault(split, []).append(row)
        subsets[row] = float(subset or "nan")
    return splits, subsets


def _lines(path: Path) -> dict[str, tuple[str, str]]:
    """Split and subset by source."""
    lines: dict[str, tuple[str, str]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"source", "split", "subset"} <= set(reader.fieldnames or ()):
            raise InputError(f"{path} is no file of splits: its header must name {', '.join(_COLUMNS)}")
        for line in reader:
            said = (line["split"], line["subset"])
            _require_values(*said, f"{path}, line {reader.line_num}")
            if lines.setdefault(line["source"], said) != said:
                raise InputError(f"{path}, line {reader.line_num}: {line['source']!r} is in another split already")
    return lines


def _require_values(split: str, subset: str, where: str) -> None:
    try:
        split_name(split or "")
        if subset and float(subset) not in SUBSETS:
            raise InputError(f"there is no subset of {subset} %")
    except ValueError as error:  # InputError among them
        raise InputError(f"{where}: {error}") from error
