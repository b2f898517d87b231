"""From a folder or a Hub id to one split of a structure data set."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset, load_dataset_builder
from huggingface_hub import DatasetCard, constants, snapshot_download
from pyarrow.dataset import ParquetFragmentScanOptions

from ...errors import InputError, one_line
from ...files import require_plain_path
from ...hub_access import HUB_DATASETS, hub_problem, is_local
from ..columns import ROWS_PER_READ, open_rows
from ..options import ISOLATED
from ..split.splitting import SUBSETS
from ..structures import LATER_COLUMNS, STRUCTURE_FEATURES, Target
from ..validation import require_valid_rows, require_valid_table


class NoSuchSplitError(InputError):
    """The data set has other splits."""


def read_split(dataset: str | Path, split: str, target: Target | None = None, revision: str | None = None) -> Dataset:
    """Loads one split with the columns and types of `STRUCTURE_FEATURES`.

    Args:
        dataset (`str` or `Path`):
            A folder, or a Hub id `organisation/name`. What exists or looks like a path never goes to the Hub;
            `hf://datasets/organisation/name` always does, and `hf://datasets/organisation/name/source` is one data set
            of a repository that has several.
        split (`str`): Such as `"train"`.
        target (`Target`, *optional*):
            Keep only the rows that carry this label, and no isolated atoms, whose energies are references:
            [`read_isolated`]. `"energy_and_forces"` keeps those with forces, some of which must have an energy too.
            None keeps all.
        revision (`str`, *optional*): Branch, tag or commit of a Hub repository.

    Raises:
        [`InputError`]: One line for a missing folder, a folder without data set, an unknown split (the existing ones
            are named), missing columns, a split in which no row has the wanted label, a row that is no valid
            structure, or a folder with a revision.
    """
    splits = load_splits(dataset, revision)
    if split not in splits:
        raise NoSuchSplitError(f"{dataset} has no split {split!r}; it has {', '.join(splits)}")
    return _as_structures(splits[split], dataset, split, target)


def of_one_charge(rows: Dataset, charge: str | None, split: str, reads_charge: bool = False) -> Dataset:
    """
    The rows of this charge, where one that is not known counts as 0; all of them for `"any"`, and for None where the
    model tells charges apart (`reads_charge`).

    Raises:
        [`InputError`]: None, and the rows have several charges, of which the model does not know: the same atoms would
            have several energies. Or no row has the charge.
    """
    if charge == "any" or (charge is None and reads_charge):
        return rows
    told = rows.select_columns(["charge"]).with_format("arrow")[:]["charge"]
    charges = told.fill_null(0.0).to_numpy()
    found = ", ".join(f"{one:+g} ({(charges == one).sum()})" for one in np.unique(charges))
    if charge is None:
        if len(np.unique(charges)) > 1:
            raise InputError(
                f"the {split} split has structures of the charges {found}, which this model cannot tell apart; choose "
                "one, as with --charge 0, or --charge any"
            )
        return rows
    if not (chosen := np.flatnonzero(charges == float(charge))).size:
        raise InputError(f"charge: the {split} split has no structure of charge {float(charge):+g}; it has {found}")
    return rows if len(chosen) == len(rows) else rows.select(chosen)


def read_isolated(dataset: str | Path, split: str, revision: str | None = None) -> Dataset | None:
    """The neutral isolated atoms of a split that have an energy, as [`read_split`] gives rows; None without any."""
    rows = load_splits(dataset, revision)[split]
    kinds, energies = rows["config_type"][:], rows.with_format("arrow")["energy"][:]
    chosen = [row for row, kind in enumerate(kinds) if kind == ISOLATED and energies[row].is_valid]
    if not chosen:
        return None
    atoms = _as_structures(rows.select(chosen), dataset, split)
    neutral = [row for row, charge in enumerate(atoms["charge"][:]) if not charge]
    return atoms.select(neutral) if neutral else None


def _as_structures(rows: Dataset, dataset: str | Path, split: str, target: Target | None = None) -> Dataset:
    """Rows as `datasets` loads them -> checked, with the columns and types of `STRUCTURE_FEATURES`."""
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


def read_splits(dataset: str | Path, cache_dir: str | None = None) -> dict[str, Dataset]:
    """All splits of a data set; see [`read_split`] and [`load_splits`]."""
    splits = load_splits(dataset, cache_dir=cache_dir)
    return {split: _as_structures(rows, dataset, split) for split, rows in splits.items()}


def _labelled(rows: Dataset, target: Target, where: str) -> Dataset:
    """
    The rows with the label that `target` names, but for isolated atoms; of both, those with forces, if any of them has
    an energy.
    """
    kinds = np.array(rows["config_type"][:])
    if (kinds == ISOLATED).any():
        rows = rows.select(np.flatnonzero(kinds != ISOLATED))
    names = target.split("_and_")
    table = rows.select_columns(names).with_format("arrow")[:]
    present = [table[name].is_valid().to_numpy() for name in names]
    valid = present[-1]
    if not np.logical_and.reduce(present).any():
        wanted = {"forces": "forces", "energy": "an energy", "stress": "a stress"}.get(
            target, "both an energy and forces"
        )
        raise InputError(f"{where}: no structure has {wanted}")
    return rows if valid.all() else rows.select(np.flatnonzero(valid))


def select_subset(rows: Dataset, percent: float) -> Dataset:
    """The rows of the nested subset of so many percent.

    Args:
        rows (`Dataset`): The train split, as [`read_split`] returns it.
        percent (`float`): One of `SUBSETS`; 100 is always all of them.

    Raises:
        [`InputError`]: There is no such subset, or the data set has none.
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


def told_sources(dataset: str | Path, revision: str | None = None) -> list[dict[str, Any]]:
    """What the card of a data set tells of the sources it was built from: name, license, level and more of each.

    Empty where it tells of none, or cannot be read, which keeps nobody from reading the rows.
    """
    card = _folder_of(str(dataset), revision) / "README.md"
    try:
        provenance = DatasetCard.load(card, ignore_metadata_errors=False).data.to_dict().get("provenance")
        sources = provenance.get("sources") if isinstance(provenance, dict) else None
        return [source for source in sources or [] if isinstance(source, dict)]
    except Exception:  # the YAML library raises many types
        return []


def pinned_revision(dataset: str | Path, revision: str | None = None) -> str | None:
    """
    The commit that a branch or tag of a Hub repository names now (by default main), so that what is read later is of
    the same one; without the Hub, when it was last asked. None for a folder, which has none.

    Raises:
        [`InputError`]: As [`read_split`].
    """
    folder = _folder_of(str(dataset), revision)
    inside = repository_and_folder(str(dataset))[1]
    return None if is_local(dataset) else folder.parts[-1 - len(Path(inside).parts)]


def load_splits(dataset: str | Path, revision: str | None = None, cache_dir: str | None = None) -> DatasetDict:
    """All splits as `datasets` loads them into its cache, not yet checked; [`InputError`] where it cannot."""
    dataset = str(dataset)
    folder = _folder_of(dataset, revision)
    if not any(folder.rglob("*.parquet")):
        raise InputError(f"{dataset} holds no parquet files; build a data set with a command in data_scripts/")
    _require_inside(folder)
    _require_one(folder, dataset if is_local(dataset) else HUB_DATASETS + dataset.removeprefix(HUB_DATASETS))
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it logs about damaged files is in the error below
    try:
        checked = ParquetFragmentScanOptions(page_checksum_verification=True)
        return load_dataset(str(folder), cache_dir=cache_dir, fragment_scan_options=checked)
    except Exception as error:  # damaged parquet, a full disk: datasets raises many types
        problem = None if is_local(dataset) else hub_problem(error, dataset.removeprefix(HUB_DATASETS), "dataset")
        if problem is not None:
            raise InputError(problem) from error
        if (empty := _file_without_rows(folder)) is not None:
            raise InputError(f"{empty} has no rows: a split needs some; remove the file, or write it again") from error
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and str(cause.filename).startswith(str(constants.HF_HOME)):
            raise InputError(
                f"{constants.HF_HOME} cannot be written ({cause.strerror}): name another folder with HF_HOME"
            ) from error
        raise InputError(f"{dataset} cannot be loaded: {type(cause).__name__}: {cause}") from error
    finally:
        logger.setLevel(level)


def _file_without_rows(folder: Path) -> Path | None:
    """`datasets` says nothing of use about a split that is empty."""
    for file in sorted(folder.rglob("*.parquet")):
        try:
            if pq.read_metadata(file).num_rows == 0:
                return file
        except (OSError, pa.ArrowException):  # damaged: that is what the error is about
            return None
    return None


def _folder_of(dataset: str, revision: str | None) -> Path:
    """The folder itself, or that of the commit in the cache of the Hub."""
    if is_local(dataset):
        folder = Path(dataset).expanduser()
        if not folder.exists():
            raise InputError(f"{dataset}: no such folder; build a data set with a command in data_scripts/")
        if not folder.is_dir():
            raise InputError(f"{dataset} is a file; give the folder of a data set")
        require_plain_path(folder)
        if revision is not None:
            raise InputError(f"{dataset} is a folder, which has no revision {revision}: leave that out")
        return folder
    name, _, also = dataset.removeprefix(HUB_DATASETS).partition("@")
    if also:
        raise InputError(f"{dataset}: name the data set as {name}, and {also} as its revision")
    repository, inside = repository_and_folder(dataset)
    try:
        # Not by `load_dataset`, which without the Hub takes what it loaded last, whatever revision that was.
        patterns = [f"{inside}/*.parquet", f"{inside}/README.md"] if inside else ["*.parquet", "README.md"]
        snapshot = snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=patterns)
    except Exception as error:  # no network, no such repository, a bad name
        problem = hub_problem(error, repository, "dataset", revision)
        raise InputError(problem or f"{dataset} cannot be loaded: {type(error).__name__}: {error}") from error
    if not (folder := Path(snapshot) / inside).is_dir():
        raise InputError(f"{repository} has no data set {inside}; look at its page for those that it has")
    return folder


def repository_and_folder(dataset: str) -> tuple[str, str]:
    """Of `hf://datasets/organisation/name/source` the repository and the folder in it, or nothing."""
    parts = dataset.removeprefix(HUB_DATASETS).split("/")
    return "/".join(parts[:2]), "/".join(parts[2:])


def members(folder: str | Path) -> list[str]:
    """The data sets of a repository that has several, each in a folder of its own; empty where there is one."""
    configs = _configs(Path(folder))
    names = [one.get("config_name") for one in configs if isinstance(one, dict)] if isinstance(configs, list) else []
    return [str(name) for name in names if name] if len(names) > 1 else []


def _require_one(folder: Path, name: str) -> None:
    """Raises [`InputError`] for a repository of several data sets."""
    if found := members(folder):
        raise InputError(f"{name} has several data sets ({', '.join(found)}): name one, such as {name}/{found[0]}")


def parquet_splits(folder: str | Path) -> dict[str, list[Path]]:
    """The files of every split, as `datasets.load_dataset` finds them.

    Raises:
        [`InputError`]: The folder holds no data set of structures.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a data set")
    require_plain_path(folder)
    if not any(folder.rglob("*.parquet")):
        raise InputError(f"{folder} holds no parquet files; build a data set with a command in data_scripts/")
    _require_inside(folder)
    _require_one(folder, str(folder))
    try:
        with TemporaryDirectory() as cache:  # it keeps nothing, and the home of a cluster may be read-only
            found = load_dataset_builder(str(folder), cache_dir=cache).config.data_files
        splits = {str(split): [Path(path) for path in paths] for split, paths in found.items()}
        for path in sum(splits.values(), []):
            _require_columns(path)
    except InputError:
        raise
    except Exception as error:  # a README with broken metadata, a damaged file: datasets and Arrow raise many types
        raise InputError(f"{folder} cannot be read as a data set: {one_line(error)}") from error
    return splits


def _require_inside(folder: Path) -> None:
    """
    Raises [`InputError`] where the card of a data set names files that are not in its folder: they would be read, and
    published, as part of it, and those of another machine fetched.
    """
    card = folder / "README.md"
    for name in _texts(_configs(folder)):
        if "://" in name or re.match(r"[\\/~]|[A-Za-z]:", name) or ".." in re.split(r"[\\/]", name):
            raise InputError(f"{card} names files outside of its folder ({name}): take that out of its header")


def _configs(folder: Path) -> Any:
    """What the header of a card says of the files of the data set; None without."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        return DatasetCard.load(card, ignore_metadata_errors=False).data.to_dict().get("configs")
    except Exception:  # the YAML library raises many types; `datasets` says what is wrong
        return None


def _texts(value: Any) -> Iterator[str]:
    """All texts in plain YAML."""
    if isinstance(value, str):
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _texts(part)


def _require_columns(path: Path) -> None:
    present = pq.read_schema(path).names
    missing = [name for name in STRUCTURE_FEATURES if name not in present and name not in LATER_COLUMNS]
    if missing:
        raise InputError(f"{path} holds no structures: it lacks the columns {', '.join(missing)}")


def parquet_tables(paths: list[Path], checked: bool = False) -> Iterator[pa.Table]:
    """The rows in pieces of at most `ROWS_PER_READ`; `checked` where they are known to be valid.

    Raises:
        [`InputError`]: A file is damaged, or a row is no valid structure.
    """
    for path in paths:
        first = 0
        try:
            for batch in open_rows(path).iter_batches(ROWS_PER_READ):
                table = pa.Table.from_batches([batch])
                if not checked:
                    require_valid_table(table, str(path), first)
                yield table
                first += len(table)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} is damaged: {one_line(error)}") from error
