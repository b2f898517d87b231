"""From a folder or a Hub id to one split of a structure data set."""

import re
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset

from ..errors import InputError
from .structures import STRUCTURE_FEATURES

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def read_split(dataset: str | Path, split: str, target: Literal["forces", "energy"] | None = None) -> Dataset:
    """Loads one split with the columns and types of `STRUCTURE_FEATURES`.

    Args:
        dataset: a folder, or a Hub id `organisation/name`. What exists or looks like a path never goes to the Hub.
        split: such as `"train"`.
        target: keep only the rows that carry this label. None keeps all.

    Raises:
        InputError: one line for a missing folder, a folder without data set, an unknown split (the existing ones are
            named), missing columns, or a split in which no row has the wanted label.
    """
    splits = _load(str(dataset))
    if split not in splits:
        raise InputError(f"{dataset} has no split {split!r}; it has {', '.join(splits)}")
    rows = splits[split]
    missing = [name for name in STRUCTURE_FEATURES if name not in rows.column_names]
    if missing:
        raise InputError(
            f"{dataset} is no structure data set: it lacks the columns {', '.join(missing)}; "
            "build one with data_scripts/import_structures.py"
        )
    rows = rows.select_columns(list(STRUCTURE_FEATURES))
    if rows.features != STRUCTURE_FEATURES:
        try:
            rows = rows.cast(STRUCTURE_FEATURES)
        except (TypeError, ValueError) as error:  # Arrow's errors derive from these
            raise InputError(f"{dataset}, split {split}: columns of the wrong type: {error}") from error
    return rows if target is None else _labelled(rows, target, f"{dataset}, split {split}")


def _labelled(rows: Dataset, target: str, where: str) -> Dataset:
    """The rows whose label `target` is not null."""
    labels = rows.select_columns([target]).with_format("arrow")[:][target]
    valid = labels.is_valid().to_numpy()
    if not valid.any():
        raise InputError(f"{where}: no structure has {'forces' if target == 'forces' else 'an energy'}")
    return rows if valid.all() else rows.select(np.flatnonzero(valid))


def _load(dataset: str) -> DatasetDict:
    path = Path(dataset).expanduser()
    local = path.exists() or not _HUB_ID.fullmatch(dataset) or path.parent.is_dir()
    if local and not path.exists():
        raise InputError(f"{dataset}: no such folder; build a data set with a command in data_scripts/")
    if local and not path.is_dir():
        raise InputError(f"{dataset} is a file; give the folder of a data set")
    if local and not any(path.rglob("*.parquet")):
        raise InputError(f"{dataset} holds no parquet files; build a data set with a command in data_scripts/")
    try:
        return load_dataset(str(path) if local else dataset)
    except Exception as error:  # damaged parquet, no network, no such repository: datasets raises many types
        raise InputError(f"{dataset} cannot be loaded: {type(error).__name__}: {error}") from error
