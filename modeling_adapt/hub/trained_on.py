"""Whether a model learned from the data set published beside it: by what it holds, not by what it is called."""

from pathlib import Path

from ..configuration_adapt import ADAPTConfig
from ..data.content import content_hash
from ..data.reading import read_split
from ..data.subsets import select_subset
from ..errors import InputError
from ..locations import HUB_DATASETS, is_local
from ..training.tasks import target_of
from .run_folder import RunFolder


def hub_dataset(run: RunFolder) -> str | None:
    """The Hub id of the data set in the recipe; None where that is a folder."""
    recorded = run.recipe.get("dataset")
    if recorded is None or is_local(recorded):
        return None
    return str(recorded).removeprefix(HUB_DATASETS)


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
