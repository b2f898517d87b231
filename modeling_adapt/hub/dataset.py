"""What of a data set folder is published: the parquet files as they are, and its card without local names."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard

from ..data.parquet_files import parquet_splits
from ..errors import InputError, one_line
from .private import publishable, publishable_text, require_png

_PATH = r"^/|//|^~|^[A-Za-z]:[\\/]"


def stage_dataset(folder: str | Path, target: Path, repository: str) -> dict[str, Path]:
    """Name in the repository -> file. Only the card is written anew, into `target`.

    Raises:
        [`InputError`]: `folder` is no data set of structures, has no card or an old one, or its rows name folders of
            this machine.
    """
    folder = Path(folder).expanduser()
    splits = parquet_splits(folder)
    paths = sum(splits.values(), [])
    for path in paths:
        _require_no_local_names(path)
    card = folder / "README.md"
    if not card.is_file():
        raise InputError(f"{folder} has no card; write it with data_scripts/describe_dataset.py {folder}")
    target.mkdir(parents=True, exist_ok=True)
    (target / "README.md").write_text(_card(card, paths, repository), encoding="utf-8")
    files = {path.resolve().relative_to(folder.resolve()).as_posix(): path for path in paths}
    figures = {f"figures/{path.name}": path for path in sorted((folder / "figures").glob("*.png"))}
    for path in figures.values():
        require_png(path)
    return files | figures | {"README.md": target / "README.md"}


def is_of_dataset(name: str) -> bool:
    """Whether a file in a data set repository is one that an upload writes, and may take away again."""
    return name.endswith(".parquet") or (name.startswith("figures/") and name.endswith(".png"))


def _card(path: Path, files: list[Path], repository: str) -> str:
    try:
        card = DatasetCard.load(path, ignore_metadata_errors=False)
    except Exception as error:  # the YAML library raises many types
        raise InputError(f"{path}: its header cannot be read; correct or remove it: {one_line(error)}") from error
    described = (card.data.to_dict().get("dataset_info") or {}).get("download_size")
    if described is not None and described != sum(file.stat().st_size for file in files):
        raise InputError(
            f"{path} is of other files; write it anew with data_scripts/describe_dataset.py {path.parent}"
        )
    for name, value in list(card.data.to_dict().items()):
        if name in ("provenance", "pretty_name"):
            card.data[name] = publishable(value, name)
    text = publishable_text(card.text.replace("path/of/this/folder", repository))
    return f"---\n{card.data.to_yaml()}\n---\n\n{text.strip()}\n"


def _require_no_local_names(path: Path) -> None:
    try:
        table = pq.read_table(path, columns=["source", "trajectory"])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged: {one_line(error)}") from error
    for name in table.column_names:
        found = pc.filter(table[name], pc.match_substring_regex(pc.fill_null(table[name], ""), _PATH))
        if len(found):
            raise InputError(
                f"{path.name}: the column {name} names a folder of this machine ({found[0]}); import the files again "
                "with their names alone"
            )
