"""
What of a data set folder is published: the parquet files as they are, and its card without local names; and whether a
model learned from it, which is told by what it holds, not by what it is called.
"""

import re
import sys
from inspect import signature
from pathlib import Path

from huggingface_hub import DatasetCardData, HfApi

from ..configuration_adapt import ADAPTConfig
from ..data.build.dataset_card import read_card
from ..data.load.reading import members, parquet_splits, read_split, repository_and_folder, select_subset
from ..data.load.survey import content_hash
from ..data.sources import OPEN_LICENSES
from ..errors import InputError
from ..hub_access import is_local
from ..training.tasks import target_of
from .privacy import copy_png, publishable, publishable_text, require_publishable_rows
from .repository import AS_IT_WAS, CARD, OUR_TAG, answers
from .run_folder import RunFolder

_FIGURES = ("figures/forces.png", "figures/distance.png", "figures/kinds.png")  # that write_card draws
# What the Hub reads in the header of a card, and we write there; other names may hold anything.
_HEADER = {*signature(DatasetCardData.__init__).parameters, "dataset_info", "configs", "tags", "provenance"}
_MEASURED = ("dataset_info", "configs", "license", "tags", "task_categories", "size_categories")


def stage_dataset(folder: str | Path, target: Path, repository: str) -> dict[str, Path]:
    """Name in the repository -> file. Only the card is written anew, into `target`.

    Raises:
        [`InputError`]: `folder` is no data set of structures, has no card or an old one, or its rows name folders of
            this machine, or hold more than ours.
    """
    if not is_local(folder):
        raise InputError(
            f"--dataset {folder}: no such folder; what is on the Hub already needs no upload: leave --dataset out"
        )
    folder = Path(folder).expanduser().absolute()
    if names := members(folder):
        return _stage_members(folder, names, target, repository)
    splits = parquet_splits(folder)
    paths = sum(splits.values(), [])
    for path in paths:
        _require_own(path, folder)
        require_publishable_rows(path)
    card = folder / "README.md"
    if not card.is_file():
        raise InputError(f"{folder} has no card; write it with data_scripts/describe_dataset.py {folder}")
    target.mkdir(parents=True, exist_ok=True)
    (target / "README.md").write_text(_card(card, paths, repository), encoding="utf-8")
    files = {_name(path, folder): path for path in paths}
    figures = {name: target / name for name in _FIGURES if (folder / name).is_file()}
    for name, path in figures.items():
        path.parent.mkdir(exist_ok=True)
        copy_png(folder / name, path)
    return files | figures | {"README.md": target / "README.md"}


def _stage_members(folder: Path, names: list[str], target: Path, repository: str) -> dict[str, Path]:
    """As [`stage_dataset`], of a repository with a data set in each of several folders."""
    files: dict[str, Path] = {}
    for name in names:
        inside = folder / name
        if not (inside / CARD).is_file():
            raise InputError(f"{inside} is no data set with a card; build {folder} anew")
        if (license := read_card(inside / CARD).data.to_dict().get("license")) not in OPEN_LICENSES:
            raise InputError(f"{inside} is under '{license}', by which not everybody may pass it on; leave it out")
        named = f'{repository}", "{name}'  # the two arguments of `load_dataset` in its card
        files |= {f"{name}/{file}": path for file, path in stage_dataset(inside, target / name, named).items()}
    rows = [path for path in files.values() if path.suffix == ".parquet"]
    (target / CARD).write_text(_card(folder / CARD, rows, repository), encoding="utf-8")
    return files | {CARD: target / CARD}


def is_of_dataset(name: str) -> bool:
    """Whether a file in a data set repository is one that an upload writes, and may take away again."""
    return name in _FIGURES or re.fullmatch(r"data/[^/]+\.parquet", name) is not None


def is_of_several(name: str) -> bool:
    """As [`is_of_dataset`], where the repository has a data set in each of several folders."""
    _, _, inside = name.partition("/")
    return is_of_dataset(name) or inside == CARD or is_of_dataset(inside)


def trained_on(
    run: RunFolder, config: ADAPTConfig, dataset: str | Path | None, repository: str, api: HfApi | None
) -> str | None:
    """Hub id of what a model learned from, where it has one; None, and a line on stderr, where the card cannot tell.

    Args:
        dataset (`str` or `Path`, *optional*):
            The folder that is published as `repository`; only its rows tell whether the model learned from it.
        api (`HfApi`, *optional*):
            Asks whether a data set that the recipe names is there; a dry run takes the recipe's word for it.
    """
    if dataset is None:
        return _hub_dataset(run) if api is None else _published_dataset(run, api)
    if _learned_from(run, config, dataset):
        return repository
    print(
        f"{run.run} has not learned from {dataset} as it is now (by the hash in its run.json): the card does not name "
        "the data set",
        file=sys.stderr,
    )
    return None


def _name(path: Path, folder: Path) -> str:
    """As it is called in the folder; in the cache of the Hub it is a link to a file that bears a hash."""
    for base in (folder, folder.resolve()):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    raise InputError(f"{path} is not in {folder}; copy the data set into a folder of its own")


def _require_own(path: Path, folder: Path) -> None:
    """Raises [`InputError`] for a link to a file elsewhere, but for those of the cache of the Hub."""
    home, where = folder.resolve(), path.resolve()
    blobs = [parent / "blobs" for parent in (home.parent, home.parents[min(1, len(home.parents) - 1)])]
    if not any(where.is_relative_to(one) for one in (home, *blobs)):
        raise InputError(f"{path} leads out of {folder}, to {where}: copy the file there, if it is to be published")


def _card(path: Path, files: list[Path], repository: str) -> str:
    card = read_card(path)
    described = card.data.to_dict().get("dataset_info") or {}
    if isinstance(described, dict):
        size = described.get("download_size")
    else:  # one for each of several data sets
        parts = described if isinstance(described, list) else []
        sizes = [part["download_size"] for part in parts if isinstance(part, dict) and "download_size" in part]
        size = sum(sizes) if len(sizes) == len(parts) > 0 else -1
    if size is not None and size != sum(file.stat().st_size for file in files):
        raise InputError(
            f"{path} is of other files; write it anew with data_scripts/describe_dataset.py {path.parent}"
        )
    for name, value in list(card.data.to_dict().items()):
        card.data.pop(name)
        if name in _HEADER:
            card.data[name] = value if name in _MEASURED else publishable(value, name)
    tags = card.data.to_dict().get("tags") or []
    card.data["tags"] = list(dict.fromkeys([*([tags] if isinstance(tags, str) else tags), OUR_TAG]))
    text = publishable_text(card.text.replace("path/of/this/folder", repository))
    return f"---\n{card.data.to_yaml()}\n---\n\n{text.strip()}\n"


def _hub_dataset(run: RunFolder) -> str | None:
    """The Hub id of the data set in the recipe; None where that is a folder."""
    recorded = run.recipe.get("dataset")
    was_a_folder = run.recipe.get("dataset_revision", "") is None  # of a repository, it is the commit
    if recorded is None or was_a_folder or is_local(recorded):
        return None
    return repository_and_folder(str(recorded))[0]


def _published_dataset(run: RunFolder, api: HfApi) -> str | None:
    """As [`_hub_dataset`], where it is there: a folder named by a relative path looks like an id elsewhere."""
    name = _hub_dataset(run)
    if name is None:
        return None
    with answers(name, "dataset", AS_IT_WAS):
        if api.repo_exists(name, repo_type="dataset"):
            return name
    print(
        f"{run.run} was trained on {name}, which is no folder here and no data set of the Hub that you may read: the "
        "card does not name it",
        file=sys.stderr,
    )
    return None


def _learned_from(run: RunFolder, config: ADAPTConfig, dataset: str | Path) -> bool:
    """Whether the rows that the run recorded the hash of are those of its train split in `dataset`."""
    data = run.parts[-1].get("data") if run.parts else None
    recorded = data.get("train") if isinstance(data, dict) else None
    if recorded is None:
        return False
    try:
        rows = read_split(dataset, run.recipe.get("train_split") or "train", target_of(config))
        rows = select_subset(rows, run.recipe.get("train_subset", 100))
    except InputError:  # no such split, label or subset: not what was learned
        return False
    return content_hash(rows) == recorded
