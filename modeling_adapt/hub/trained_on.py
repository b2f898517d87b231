"""Whether a model learned from the data set published beside it: by what it holds, not by what it is called."""

import sys
from pathlib import Path

from huggingface_hub import HfApi

from ..configuration_adapt import ADAPTConfig
from ..data.load.reading import read_split, select_subset
from ..data.load.survey import content_hash
from ..errors import InputError
from ..hub_access import HUB_DATASETS, is_local
from ..training.tasks import target_of
from .answers import AS_IT_WAS, answers
from .run_folder import RunFolder


def hub_dataset(run: RunFolder) -> str | None:
    """The Hub id of the data set in the recipe; None where that is a folder."""
    recorded = run.recipe.get("dataset")
    if recorded is None or is_local(recorded):
        return None
    return str(recorded).removeprefix(HUB_DATASETS)


def published_dataset(run: RunFolder, api: HfApi) -> str | None:
    """As [`hub_dataset`], where it is there: a folder named by a relative path looks like an id from anywhere else."""
    name = hub_dataset(run)
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


def learned_from(run: RunFolder, config: ADAPTConfig, dataset: str | Path) -> bool:
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
