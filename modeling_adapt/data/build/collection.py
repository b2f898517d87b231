"""A repository with a data set for each of several sources: a configuration each, and one card for all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from ...files import write_whole
from ...markdown import render
from ..load.reading import parquet_splits
from ..sources import Source
from ..structures import STRUCTURE_FEATURES
from .dataset_card import FIGURES, TAGS, column_type, read_card, size_category
from .summary import DatasetSummary


class Member(NamedTuple):
    """
    Args:
        source ([`Source`]): What it was built from.
        summary ([`DatasetSummary`]): What it holds.
        notes (`list[str]`): What was left out, a sentence each.
    """

    source: Source
    summary: DatasetSummary
    notes: list[str]


class State(NamedTuple):
    """
    Args:
        kind (`str`): The defect, or what else the config type tells.
        charge (`str`): With its sign; empty where none is told.
        counts (`list[int]`): Structures in each split.
    """

    kind: str
    charge: str
    counts: list[int]


def write_collection_card(folder: Path, members: Sequence[Member], provenance: Mapping[str, Any], name: str) -> None:
    """Writes `README.md`, by whose header `datasets.load_dataset(folder, NAME)` finds the data set of each source.

    Args:
        folder (`Path`): With a folder for each of `members`, called as its source.
        members (`Sequence[Member]`): In the order of the card.
        provenance (`Mapping[str, Any]`): Where the data come from, for the end of the card.
        name (`str`): Title.
    """
    told = [_told(folder, member) for member in members]
    structures = sum(one["total"].structures for one in told)
    symbols = dict.fromkeys(symbol for member in members for symbol, _, _ in member.summary.elements)
    metadata: dict[str, Any] = {
        "license": sorted({member.source.license for member in members}),
        "pretty_name": name,
        "tags": [*TAGS, *symbols],
        "task_categories": ["other"],
        "size_categories": [size_category(structures)],
        "configs": [
            _configuration(member.source.name, one["split_names"]) for member, one in zip(members, told, strict=True)
        ],
        "dataset_info": [_dataset_info(folder, member.source.name) for member in members],
    }
    columns = {name: column_type(feature) for name, feature in STRUCTURE_FEATURES.items()}
    body = render("collection_card.md.jinja", title=name, members=told, columns=columns, provenance=provenance)
    write_whole(folder / "README.md", f"---\n{DatasetCardData(**metadata).to_yaml()}\n---\n\n{body}\n")


def _told(folder: Path, member: Member) -> dict[str, Any]:
    """What the template wants of one data set."""
    splits = member.summary.by("split")
    pictures = folder / member.source.name / "figures"
    return {
        "source": member.source,
        "total": member.summary.total,
        "split_names": list(splits),
        "charges": [f"{charge:+g}" for charge in sorted(member.summary.total.charges)],
        "states": _states(folder / member.source.name, list(splits)),
        "figures": {name: told for name, told in FIGURES.items() if (pictures / name).is_file()},
        "notes": member.notes,
    }


def _states(folder: Path, splits: Sequence[str]) -> list[State]:
    """How many structures there are of each defect in each charge."""
    rows = pd.concat(
        pq.read_table(path, columns=["config_type", "charge"]).to_pandas().assign(split=split)
        for split, paths in parquet_splits(folder).items()
        for path in paths
    )
    counts = rows.groupby(["config_type", "charge", "split"], dropna=False).size().unstack(fill_value=0)
    return [
        State(kind or "", "" if pd.isna(charge) else f"{charge:+g}", [int(line[split]) for split in splits])
        for (kind, charge), line in counts.iterrows()
    ]


def _configuration(name: str, splits: Sequence[str]) -> dict[str, Any]:
    files = [{"split": split, "path": f"{name}/data/{split}-*.parquet"} for split in splits]
    return {"config_name": name, "data_files": files}


def _dataset_info(folder: Path, name: str) -> dict[str, Any]:
    """That of the card of the data set."""
    return {"config_name": name, **read_card(folder / name / "README.md").data.to_dict()["dataset_info"]}
