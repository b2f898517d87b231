"""The README.md of a data set: what the Hub and `datasets` read in its header, and what people want to know."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import DatasetInfo, Features, List, SplitDict, SplitInfo
from huggingface_hub import DatasetCard, DatasetCardData

from ...errors import InputError, one_line
from ...files import write_whole
from ...markdown import render
from ..load.reading import parquet_splits, parquet_tables
from ..split.splitting import SUBSETS
from .card_figures import ForceFigures, draw_kinds
from .summary import DatasetSummary

_NOTES = "<!-- Your own notes: what is below this line stays when the card is written again. -->"
FIGURES = {
    "forces.png": "Distribution of the sizes of the forces",
    "distance.png": "Sizes of forces against the distance to the nearest defect site",
    "kinds.png": "Structures by config type",
}
TAGS = ("chemistry", "physics", "materials-science", "force-field", "interatomic-potential")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class _Contents:
    """What one pass over the files finds."""

    summary: DatasetSummary
    forces: ForceFigures
    features: Features
    files: Mapping[str, list[Path]]


def write_card(
    folder: str | Path,
    provenance: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    license: str = "",
    like: str | Path | None = None,
    checked: bool = False,
) -> DatasetSummary:
    """Writes `README.md` and `figures/` for the data set in `folder`; one pass, with bounded memory.

    Its `dataset_info` agrees with the files, which `datasets.load_dataset` checks; so files that change need a new
    card. What an earlier card has of provenance, licence and further metadata stays where nothing new is given, as do
    the notes at its end.

    Args:
        provenance (`Mapping[str, Any]`, *optional*):
            Where the data come from: command, options, calculator, versions; values that YAML can write.
        name (`str`, defaults to `""`): Title; by default the one of an earlier card, or the name of the folder.
        license (`str`, defaults to `""`):
            Identifier of the Hub, such as mit or cc-by-4.0; by default that of an earlier card, or unknown.
        like (`str` or `Path`, *optional*):
            Folder of the data set that this one was made from; its card counts as the earlier one.
        checked (`bool`, defaults to `False`): The rows are known to be valid, as they were made or read just now.

    Returns:
        [`DatasetSummary`]: What the data set holds, for [`summary_table`].

    Raises:
        [`InputError`]: The folder holds no data set of structures, or its README.md has a header that is no YAML.
    """
    folder = Path(folder).expanduser()
    metadata, notes = _earlier_card(Path(like or folder).expanduser())
    if like is not None:
        metadata.pop("configs", None)  # they name the files of the other data set
    contents = _read(folder, checked)
    metadata = metadata | {
        "license": license or metadata.get("license") or _common_license(provenance or {}),
        "pretty_name": name or metadata.get("pretty_name") or folder.absolute().name,
        "tags": metadata.get("tags") or [*TAGS, *contents.summary.total.symbols],
        "task_categories": metadata.get("task_categories") or ["other"],
        "size_categories": [size_category(contents.summary.total.structures)],
        # No "configs": with them `datasets` would know its cached copy by the header alone, and take that of another
        # folder of the same name, or of earlier files, for this one.
        "dataset_info": _dataset_info(contents),
    }
    if provenance is not None:
        metadata["provenance"] = {**(metadata.get("provenance") or {}), **provenance}
    body = _body(contents, metadata, _draw(contents, folder / "figures"))
    header = DatasetCardData(**metadata).to_yaml()
    text = "\n\n".join([f"---\n{header}\n---", body, _NOTES, notes]).rstrip() + "\n"
    write_whole(folder / "README.md", text)
    return contents.summary


def _earlier_card(folder: Path) -> tuple[dict[str, Any], str]:
    """Metadata and notes of the README that is there; of one that was written by hand all of the text."""
    path = folder / "README.md"
    if not path.exists():
        return {}, ""
    card = read_card(path)
    if not isinstance(card.data.to_dict().get("provenance") or {}, dict):
        raise InputError(f"{path}: provenance in its header must be a mapping; correct or remove it")
    body, mark, notes = card.text.partition(_NOTES)
    return card.data.to_dict(), (notes if mark else body).strip()


def read_card(path: Path) -> DatasetCard:
    """Raises [`InputError`] where the header of a card is no YAML."""
    try:
        return DatasetCard.load(path, ignore_metadata_errors=False)
    except Exception as error:  # the YAML library raises many types
        raise InputError(f"{path}: its header cannot be read; correct or remove it: {one_line(error)}") from error


def _read(folder: Path, checked: bool) -> _Contents:
    files = parquet_splits(folder)
    paths = sum(files.values(), [])
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    if rows == 0:
        raise InputError(f"{folder} holds no structures")
    summary, forces = DatasetSummary(), ForceFigures(rows)
    for split in files:
        for table in parquet_tables(files[split], checked):
            summary.add(split, table)
            forces.add(split, table)
    return _Contents(summary, forces, Features.from_arrow_schema(pq.read_schema(paths[0])), files)


def _dataset_info(contents: _Contents) -> dict[str, Any]:
    tallies, sizes = contents.summary.by("split"), contents.summary.bytes_by_split
    splits = SplitDict()
    for split, tally in tallies.items():
        splits.add(SplitInfo(split, num_bytes=sizes[split], num_examples=tally.structures))
    stored = sum(path.stat().st_size for paths in contents.files.values() for path in paths)
    info = DatasetInfo(
        features=contents.features, splits=splits, download_size=stored, dataset_size=sum(sizes.values())
    )
    return info._to_yaml_dict()


def _body(contents: _Contents, metadata: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """What stands below the header, as Markdown."""
    summary = contents.summary
    total, kinds = summary.total, summary.by("config_type")
    counts = {limit: sum(n for percent, n in summary.subsets.items() if percent <= limit) for limit in SUBSETS}
    return render(
        "dataset_card.md.jinja",
        title=metadata["pretty_name"],
        total=total,
        splits=summary.by("split"),
        kinds=dict(sorted(kinds.items(), key=lambda item: (-item[1].structures, item[0]))),
        subsets=counts if summary.subsets else {},
        defect_kinds=summary.defect_kinds.most_common(),
        elements=summary.elements,
        figures=figures,
        columns={name: column_type(feature) for name, feature in contents.features.items()},
        sources=_sources(summary, metadata),
        provenance=metadata.get("provenance"),
    )


def _sources(summary: DatasetSummary, metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the provenance tells of each source, and how many structures are in the files, by split."""
    told = (metadata.get("provenance") or {}).get("sources") or []
    counts: dict[str, dict[str, int]] = {}
    for (name, split), number in summary.sources.items():
        counts.setdefault(name, {})[split] = number
    return [dict(source) | {"structures": counts.get(source["name"], {})} for source in told]


def _common_license(provenance: Mapping[str, Any]) -> str:
    """The licence of all sources where the Hub may have an identifier for it; of several, none tells."""
    licenses = {source["license"] for source in provenance.get("sources") or []}
    if len(licenses) != 1:
        return "other" if licenses else "unknown"
    return name if re.fullmatch(r"[a-z0-9.+-]+", name := licenses.pop()) else "other"


def column_type(feature: Any) -> str:
    """Such as `float32 [n, 3]`."""
    lengths = []
    while isinstance(feature, List):
        lengths.append("n" if feature.length < 0 else str(feature.length))
        feature = feature.feature
    return f"{feature.dtype} [{', '.join(lengths)}]" if lengths else feature.dtype


def size_category(structures: int) -> str:
    return next((name for limit, name in _SIZES if structures < limit), "1M<n<10M")


def _draw(contents: _Contents, folder: Path) -> dict[str, str]:
    """Draws what the data allow; file name -> what it shows."""
    if any(split not in path.name for split, paths in contents.files.items() for path in paths):
        return {}  # where names tell no split, `datasets` counts every file as data, and pictures would be the most
    folder.mkdir(exist_ok=True)
    drawn = {
        "forces.png": contents.forces.draw_distribution(folder / "forces.png"),
        "distance.png": contents.forces.draw_distance(folder / "distance.png"),
        "kinds.png": draw_kinds(contents.summary, folder / "kinds.png"),
    }
    return {name: told for name, told in FIGURES.items() if drawn[name]}
