"""From a folder or a Hub id to one split of a structure data set."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetNotFoundError

from ..errors import InputError
from ..hub.errors import hub_problem, no_such_repository
from ..locations import HUB_DATASETS, is_local
from .structures import LATER_COLUMNS, STRUCTURE_FEATURES, Target
from .validation import require_valid_rows


class NoSuchSplitError(InputError):
    """The data set has other splits."""


def read_split(dataset: str | Path, split: str, target: Target | None = None) -> Dataset:
    """Loads one split with the columns and types of `STRUCTURE_FEATURES`.

    Args:
        dataset: a folder, or a Hub id `organisation/name`. What exists or looks like a path never goes to the Hub;
            `hf://datasets/organisation/name` always does.
        split: such as `"train"`.
        target: keep only the rows that carry this label, or both. None keeps all.

    Raises:
        InputError: one line for a missing folder, a folder without data set, an unknown split (the existing ones are
            named), missing columns, a split in which no row has the wanted label, or a row that is no valid structure.
    """
    splits = load_splits(dataset)
    if split not in splits:
        raise NoSuchSplitError(f"{dataset} has no split {split!r}; it has {', '.join(splits)}")
    rows = splits[split]
    missing = [name for name in STRUCTURE_FEATURES if name not in rows.column_names]
    if not set(missing) <= LATER_COLUMNS.keys():
        raise InputError(
            f"{dataset} is no structure data set: it lacks the columns {', '.join(missing)}; "
            "build one with data_scripts/import_structures.py"
        )
    for name in missing:
        empty = pa.array([LATER_COLUMNS[name]] * len(rows), STRUCTURE_FEATURES.arrow_schema.field(name).type)
        rows = rows.add_column(name, empty, feature=STRUCTURE_FEATURES[name])
    rows = rows.select_columns(list(STRUCTURE_FEATURES))
    if rows.features != STRUCTURE_FEATURES:
        try:
            rows = rows.cast(STRUCTURE_FEATURES)
        except (TypeError, ValueError) as error:  # Arrow's errors derive from these
            raise InputError(f"{dataset}, split {split}: columns of the wrong type: {error}") from error
    where = f"{dataset}, split {split}"
    rows = rows if target is None else _labelled(rows, target, where)
    require_valid_rows(rows, where)
    return rows


def read_splits(dataset: str | Path) -> dict[str, Dataset]:
    """All splits of a data set; see [`read_split`]."""
    return {split: read_split(dataset, split) for split in load_splits(dataset)}


def _labelled(rows: Dataset, target: Target, where: str) -> Dataset:
    """The rows in which no label that `target` names is null."""
    names = target.split("_and_")
    table = rows.select_columns(names).with_format("arrow")[:]
    valid = np.logical_and.reduce([table[name].is_valid().to_numpy() for name in names])
    if not valid.any():
        wanted = {"forces": "forces", "energy": "an energy", "energy_and_forces": "both an energy and forces"}[target]
        raise InputError(f"{where}: no structure has {wanted}")
    return rows if valid.all() else rows.select(np.flatnonzero(valid))


def load_splits(dataset: str | Path) -> DatasetDict:
    """All splits as `datasets` loads them, not yet checked; [`InputError`] where it cannot."""
    dataset = str(dataset)
    path, local = Path(dataset).expanduser(), is_local(dataset)
    if local and not path.exists():
        raise InputError(f"{dataset}: no such folder; build a data set with a command in data_scripts/")
    if local and not path.is_dir():
        raise InputError(f"{dataset} is a file; give the folder of a data set")
    if local and not any(path.rglob("*.parquet")):
        raise InputError(f"{dataset} holds no parquet files; build a data set with a command in data_scripts/")
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it logs about damaged files is in the error below
    repository = dataset.removeprefix(HUB_DATASETS)
    try:
        return load_dataset(str(path) if local else dataset)
    except DatasetNotFoundError as error:  # datasets drops what the Hub said
        raise InputError(no_such_repository(repository, "dataset")) from error
    except Exception as error:  # damaged parquet, no network, no such repository: datasets raises many types
        problem = None if local else hub_problem(error, repository, "dataset")
        if problem is not None:
            raise InputError(problem) from error
        cause = error.__cause__ or error
        raise InputError(f"{dataset} cannot be loaded: {type(cause).__name__}: {cause}") from error
    finally:
        logger.setLevel(level)
