"""What of a data set folder is published: the parquet files as they are, and its card without local names."""

import re
from pathlib import Path

from huggingface_hub import DatasetCard

from ..data.load.reading import parquet_splits
from ..errors import InputError, one_line
from ..hub_access import is_local
from .ownership import OUR_TAG
from .private import publishable, publishable_text, require_png
from .rows import require_publishable_rows

_FIGURES = ("figures/forces.png", "figures/distance.png", "figures/kinds.png")  # that write_card draws
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
    splits = parquet_splits(folder)
    paths = sum(splits.values(), [])
    for path in paths:
        require_publishable_rows(path)
    card = folder / "README.md"
    if not card.is_file():
        raise InputError(f"{folder} has no card; write it with data_scripts/describe_dataset.py {folder}")
    target.mkdir(parents=True, exist_ok=True)
    (target / "README.md").write_text(_card(card, paths, repository), encoding="utf-8")
    files = {_name(path, folder): path for path in paths}
    figures = {name: folder / name for name in _FIGURES if (folder / name).is_file()}
    for path in figures.values():
        require_png(path)
    return files | figures | {"README.md": target / "README.md"}


def is_of_dataset(name: str) -> bool:
    """Whether a file in a data set repository is one that an upload writes, and may take away again."""
    return name in _FIGURES or re.fullmatch(r"data/[^/]+\.parquet", name) is not None


def _name(path: Path, folder: Path) -> str:
    """As it is called in the folder; in the cache of the Hub it is a link to a file that bears a hash."""
    for base in (folder, folder.resolve()):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    raise InputError(f"{path} is not in {folder}; copy the data set into a folder of its own")


def _card(path: Path, files: list[Path], repository: str) -> str:
    try:
        card = DatasetCard.load(path, ignore_metadata_errors=False)
    except Exception as error:  # the YAML library raises many types
        raise InputError(f"{path}: its header cannot be read; correct or remove it: {one_line(error)}") from error
    described = card.data.to_dict().get("dataset_info") or {}
    size = described.get("download_size") if isinstance(described, dict) else -1
    if size is not None and size != sum(file.stat().st_size for file in files):
        raise InputError(
            f"{path} is of other files; write it anew with data_scripts/describe_dataset.py {path.parent}"
        )
    for name, value in list(card.data.to_dict().items()):
        if name not in _MEASURED:
            card.data[name] = publishable(value, name)
    tags = card.data.to_dict().get("tags") or []
    card.data["tags"] = list(dict.fromkeys([*([tags] if isinstance(tags, str) else tags), OUR_TAG]))
    text = publishable_text(card.text.replace("path/of/this/folder", repository))
    return f"---\n{card.data.to_yaml()}\n---\n\n{text.strip()}\n"
