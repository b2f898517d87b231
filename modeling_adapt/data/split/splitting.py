"""Which structures belong together, and their division into train, validation and test and into nested subsets.

Frames of one relaxation are nearly the same structure: a split through a trajectory tests memory, not prediction. No
outcome depends on the order of the rows.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ...errors import InputError
from ...tables import csv_text, plain_cell
from ..options import ISOLATED
from ..read.charges import named_charge, names_a_defect

Unit = Literal["trajectory", "charge_state", "config_type"]  # what is never divided
SPLITS = ("train", "validation", "test")
HELD_OUT = "held_out"  # the split of the kinds that training must not see
Division = tuple[Mapping[str, Sequence[int]], np.ndarray]  # row numbers by split, and the subset of every row
SUBSETS = (1, 3, 10, 30, 100)  # percent of the train split; each holds the smaller ones
SPLIT_FILE = "splits.csv"
_SPLIT_FILE_COLUMNS = ("source", "trajectory", "config_type", "split", "subset")


class RowKey(NamedTuple):
    """What decides the split of a row."""

    trajectory: str
    config_type: str
    has_forces: bool
    charge: float | None = None


class Group(NamedTuple):
    """Rows that stay together.

    Args:
        name (`str`): Of the trajectory, or of the config type.
        config_type (`str`): The one of most of its rows.
        has_forces (`bool`): Of any of its rows.
        rows (`list[int]`): Their numbers.
    """

    name: str
    config_type: str
    has_forces: bool
    rows: list[int]


def groups(keys: Sequence[RowKey], rows: Iterable[int], by: Unit = "trajectory") -> list[Group]:
    """The trajectories that `rows` (numbers into `keys`) belong to, or their config types; each with its rows.

    A trajectory whose structures are of several config types counts as the one of most of them. A row without the name
    of a trajectory is one of its own, called by its number. The trajectories of one defect in several charge states
    count as one: these are nearly the same structures, and far apart in energy alone. By `"charge_state"` they do not.
    """
    rows = list(rows)
    defects = {} if by == "charge_state" else _charged_defects([keys[row] for row in rows])
    trajectories: dict[str, list[int]] = {}
    for row in rows:
        name = keys[row].trajectory or f"row {row}"
        trajectories.setdefault(defects.get(name, name), []).append(row)
    found = [_group(name, members, keys) for name, members in trajectories.items()]
    if by != "config_type":
        return found
    return [
        Group(kind, kind, any(part.has_forces for part in parts), [row for part in parts for row in part.rows])
        for kind, parts in _by_type(found).items()
    ]


def _charged_defects(keys: Sequence[RowKey]) -> dict[str, str]:
    """The defect of each trajectory of one that has several charges; a charge that is not known counts as 0."""
    charges: dict[str, set[float]] = {}
    defects: dict[str, str] = {}
    for key in keys:
        if (defect := _defect(key)) is not None:
            charges.setdefault(defect, set()).add(key.charge or 0.0)
            defects[key.trajectory] = defect
    return {trajectory: defect for trajectory, defect in defects.items() if len(charges[defect]) > 1}


@lru_cache(maxsize=100_000)
def _defect(key: RowKey) -> str | None:
    """By its folder, such as runs/v_O of runs/v_O_+2/vasp_std, or by file and config type, such as Mg_Ga."""
    if (named := named_charge(key.trajectory)) is not None:
        return named.defect
    if key.trajectory and names_a_defect(key.config_type):
        return f"{key.trajectory.rpartition('#')[0]} {key.config_type}"
    return None


def _group(name: str, rows: list[int], keys: Sequence[RowKey]) -> Group:
    kinds = [keys[row].config_type for row in rows]
    kind = min(set(kinds), key=lambda kind: (-kinds.count(kind), kind))
    return Group(name, kind, any(keys[row].has_forces for row in rows), rows)


def _by_type(found: Iterable[Group]) -> dict[str, list[Group]]:
    """Groups of each config type, the types in alphabetical order."""
    by_type: dict[str, list[Group]] = {}
    for group in found:
        by_type.setdefault(group.config_type, []).append(group)
    return dict(sorted(by_type.items()))


def shuffled(found: Iterable[Group], seed: int) -> list[Group]:
    """Random order that depends on the seed and the names alone, so that further groups do not change it."""
    return sorted(found, key=lambda group: hashlib.blake2b(f"{seed}:{group.name}".encode()).digest())


def assign_rows(
    keys: Sequence[RowKey],
    split: str = "0.8,0.1,0.1",
    seed: int = 0,
    *,
    by: Unit = "trajectory",
    hold_out: Sequence[str] = (),
) -> dict[str, list[int]]:
    """Divides rows into splits without dividing a trajectory.

    Trajectories in seeded random order go, one by one, where most structures are still missing; ties go to the first
    split. So train is filled first, and with few trajectories the others may stay empty.

    Each config type is divided in the wanted fractions. Types with too few trajectories to give every split one are
    divided together. Structures with forces and structures with an energy alone are divided separately: they train
    different models, and each needs a train split. Isolated atoms, whose energies are references, are in train. The
    outcome depends on the keys and the seed, not on their order.

    Args:
        keys (`Sequence[RowKey]`): One per row.
        split (`str`, defaults to `"0.8,0.1,0.1"`):
            Three fractions for train, validation and test, or the name of one split for all rows.
        by (`Unit`, defaults to `"trajectory"`):
            `"config_type"` never divides a config type either: each goes to one split as a whole. `"charge_state"`
            divides the charge states of a defect, which `"trajectory"` keeps together.
        hold_out (`Sequence[str]`, defaults to `()`):
            Config types whose trajectories go to the split `held_out` instead, to measure how a model does on kinds
            that it has never seen; validation and test then stay what they are, kinds that it knows.

    Returns:
        `dict[str, list[int]]`: Sorted row numbers by split; empty splits are left out.

    Raises:
        [`InputError`]: `split` is neither, a config type to hold out is not there, or the config types are too few to
            be divided as wholes.
    """
    fractions = split_fractions(split)
    known = {key.config_type for key in keys}
    if unknown := [kind for kind in hold_out if kind not in known]:
        raise InputError(f"there is no config type {unknown[0]!r} to hold out; there are {', '.join(sorted(known))}")
    held = {key.trajectory for key in keys if key.config_type in hold_out} - {""}  # without a name, a row stands alone
    is_held = [key.config_type in hold_out or key.trajectory in held for key in keys]
    apart = [row for row, away in enumerate(is_held) if away]
    is_alone = [key.config_type == ISOLATED and fractions is not None for key in keys]
    alone = [row for row, (single, away) in enumerate(zip(is_alone, is_held, strict=True)) if single and not away]
    rest = [row for row, (single, away) in enumerate(zip(is_alone, is_held, strict=True)) if not (single or away)]
    if fractions is None:
        splits = {split: rest} if rest else {}
    elif by != "config_type":
        splits = _by_split(_stratified(groups(keys, rest, by), np.array(fractions), seed))
    else:
        splits = _by_split(_divide(groups(keys, rest, by), np.array(fractions) * len(rest), seed, fill_all=True))
        if empty := [name for name, share in zip(SPLITS, fractions, strict=True) if share > 0 and name not in splits]:
            raise InputError(f"--split {split} by config type leaves {empty[0]} empty: there are too few types for it")
    if alone:
        splits = {"train": sorted(splits.get("train", []) + alone)} | {k: v for k, v in splits.items() if k != "train"}
    if apart:
        splits[HELD_OUT] = sorted(splits.get(HELD_OUT, []) + apart)
    return splits


def divide_rows(
    sources: Sequence[str],
    keys: Sequence[RowKey],
    split: str = "0.8,0.1,0.1",
    seed: int = 0,
    *,
    by: Unit = "trajectory",
    hold_out: Sequence[str] = (),
) -> Division:
    """Splits as [`assign_rows`] and nested subsets as [`train_subsets`] make them; `sources` do not matter."""
    splits = assign_rows(keys, split, seed, by=by, hold_out=hold_out)
    return splits, train_subsets(keys, splits, seed)


def _stratified(found: list[Group], fractions: np.ndarray, seed: int) -> list[list[Group]]:
    """Groups of each split, as [`assign_rows`] describes."""
    chosen: list[list[Group]] = [[] for _ in SPLITS]
    enough = round(1 / fractions[fractions > 0].min())  # so many equal groups give every split one
    for has_forces in (True, False):
        strata = _by_type(group for group in found if group.has_forces == has_forces).values()
        rare = [group for stratum in strata if len(stratum) < enough for group in stratum]
        missing = np.zeros(len(SPLITS))
        for stratum in [*(stratum for stratum in strata if len(stratum) >= enough), *([rare] if rare else [])]:
            rows = sum(len(group.rows) for group in stratum)
            # What rounding withheld from a split is made up for, by about one trajectory at most.
            wanted = fractions * rows + np.clip(missing, -rows / len(stratum), rows / len(stratum))
            divided = _divide(stratum, wanted, seed)
            missing = wanted - [sum(len(group.rows) for group in part) for part in divided]
            for split, part in enumerate(divided):
                chosen[split] += part
    return chosen


def _divide(found: Sequence[Group], wanted: np.ndarray, seed: int, fill_all: bool = False) -> list[list[Group]]:
    """Groups in random order, each to the split that lacks most of its wanted (3,) rows.

    With `fill_all` the last ones go to splits that have none yet.
    """
    missing = wanted.tolist()
    chosen: list[list[Group]] = [[] for _ in SPLITS]
    for left, group in zip(range(len(found), 0, -1), shuffled(found, seed), strict=True):
        empty = [split for split, part in enumerate(chosen) if wanted[split] > 0 and not part]
        candidates = empty if fill_all and left <= len(empty) else range(len(SPLITS))
        split = max(candidates, key=lambda split: round(missing[split], 6))  # rounded so that equal shares tie
        chosen[split].append(group)
        missing[split] -= len(group.rows)
    return chosen


def _by_split(chosen: Sequence[Sequence[Group]]) -> dict[str, list[int]]:
    rows = [sorted(row for group in part for row in group.rows) for part in chosen]
    return {name: indices for name, indices in zip(SPLITS, rows, strict=True) if indices}


def split_fractions(split: str) -> list[float] | None:
    """The fractions that a `--split` option gives; None where it is a name."""
    if "," not in split:
        split_name(split)
        return None
    try:
        fractions = [float(part) for part in split.split(",")]
    except ValueError:
        fractions = []
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or not abs(sum(fractions) - 1) <= 1e-6:  # not: NaN too
        raise InputError(f"--split {split}: give one name, or three fractions of {', '.join(SPLITS)} that add up to 1")
    return fractions


def split_name(name: str) -> str:
    """`name` if `datasets` accepts it as the name of a split; [`InputError`] otherwise."""
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name == "all":
        raise InputError(f"{name!r} is no name for a split; use letters, digits and _, such as train, and not 'all'")
    return name


def train_subsets(keys: Sequence[RowKey], splits: Mapping[str, Sequence[int]], seed: int = 0) -> np.ndarray:
    """The smallest subset of the train split that each row is in: (rows,) float32 in percent, NaN outside of train.

    Trajectories are never divided, each subset has every config type in about its share, and structures with forces
    and those with an energy alone are drawn separately. As in [`assign_rows`], the order of the rows does not matter.

    Args:
        keys (`Sequence[RowKey]`): Of all rows.
        splits (`Mapping[str, Sequence[int]]`): Row numbers by split name, as [`assign_rows`] returns them.
    """
    subsets = np.full(len(keys), np.nan, dtype=np.float32)
    train = splits.get("train", ())
    subsets[[row for row in train if keys[row].config_type == ISOLATED]] = SUBSETS[0]
    found = groups(keys, [row for row in train if keys[row].config_type != ISOLATED])
    for has_forces in (True, False):
        ordered = _proportional_order([group for group in found if group.has_forces == has_forces], seed)
        total = sum(len(group.rows) for group in ordered)
        before = 0
        for group in ordered:
            # Half of a trajectory on either side of the border rounds to the nearest; the first is in every subset.
            share = 100 * (before + len(group.rows) / 2) / total if before else 0
            subsets[group.rows] = next(percent for percent in SUBSETS if share <= percent)
            before += len(group.rows)
    return subsets


def _proportional_order(found: list[Group], seed: int) -> list[Group]:
    """Random order in which every beginning has the config types in about the shares of the whole."""
    ordered = shuffled(found, seed)
    totals: Counter[str] = Counter()
    for group in ordered:
        totals[group.config_type] += len(group.rows)
    before: Counter[str] = Counter()
    places = []
    for group in ordered:
        places.append((before[group.config_type] + len(group.rows) / 2) / totals[group.config_type])
        before[group.config_type] += len(group.rows)
    return [ordered[place] for place in np.argsort(places, kind="stable")]


def write_split_file(
    path: Path,
    sources: Sequence[str],
    keys: Sequence[RowKey],
    splits: Mapping[str, Sequence[int]],
    subsets: np.ndarray,
) -> None:
    """Writes one line per row, split by split.

    Args:
        sources (`Sequence[str]`): The `source` of every row.
        splits (`Mapping[str, Sequence[int]]`): Row numbers by split name.
        subsets (`np.ndarray` of shape `(rows,)`): As [`train_subsets`] returns them.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(csv_text([_SPLIT_FILE_COLUMNS]))
        for split, rows in splits.items():
            for row in rows:
                subset = "" if np.isnan(subsets[row]) else f"{subsets[row]:g}"
                file.write(csv_text([(sources[row], keys[row].trajectory, keys[row].config_type, split, subset)]))


def read_split_file(
    path: str | Path, sources: Sequence[str], keys: Sequence[RowKey]
) -> tuple[dict[str, list[int]], np.ndarray]:
    """Divides rows as a file of [`write_split_file`] says, by their source; further lines of the file are not used.

    Returns:
        `tuple[dict[str, list[int]], np.ndarray]`: Row numbers by split name, and the subset of every row as in
        [`train_subsets`].

    Raises:
        [`InputError`]: The file is missing or no such file, says two things of a source, lacks a row, or divides a
            trajectory.
    """
    lines = _lines(Path(path))
    splits: dict[str, list[int]] = {}
    subsets = np.full(len(keys), np.nan, dtype=np.float32)
    of_trajectory: dict[str, str] = {}
    for row, (source, key) in enumerate(zip(sources, keys, strict=True)):
        if source not in lines:
            raise InputError(f"{path} has no line for the source {source!r}; divide the data set without --split-file")
        split, subset = lines[source]
        if of_trajectory.setdefault(key.trajectory, split) != split:
            raise InputError(f"{path} divides the trajectory {key.trajectory!r} between {split} and another split")
        splits.setdefault(split, []).append(row)
        subsets[row] = float(subset or "nan")
    return splits, subsets


def _lines(path: Path) -> dict[str, tuple[str, str]]:
    """Split and subset by source."""
    lines: dict[str, tuple[str, str]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"source", "split", "subset"} <= set(reader.fieldnames or ()):
            raise InputError(f"{path} is no file of splits: its header must name {', '.join(_SPLIT_FILE_COLUMNS)}")
        for line in reader:
            said = (line["split"], line["subset"])
            _require_values(*said, f"{path}, line {reader.line_num}")
            source = plain_cell(line["source"])
            if lines.setdefault(source, said) != said:
                raise InputError(f"{path}, line {reader.line_num}: {source!r} is in another split already")
    return lines


def _require_values(split: str, subset: str, where: str) -> None:
    try:
        split_name(split or "")
        if subset and float(subset) not in SUBSETS:
            raise InputError(f"there is no subset of {subset} %")
    except ValueError as error:  # InputError among them
        raise InputError(f"{where}: {error}") from error
