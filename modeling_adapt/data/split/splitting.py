"""Which structures belong together, and their division into train, validation and test.

Frames of one relaxation are nearly the same structure: a split through a trajectory tests memory, not prediction.
"""

import argparse
import re
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ...cli.command_line import whole_number
from ...crystal.minimum_image import shortest_images
from ...errors import InputError
from .grouping import Group, RowKey, Unit, groups, shuffled, strata
from .subsets import Division, train_subsets

SPLITS = ("train", "validation", "test")
HELD_OUT = "held_out"  # the split of the kinds that training must not see
LARGEST_STEP = 1.0  # Å; between neighbouring frames of one trajectory no atom and no cell vector moves farther


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
    different models, and each needs a train split. The outcome depends on the keys and the seed, not on their order.

    Args:
        keys: one per row.
        split: three fractions for train, validation and test, or the name of one split for all rows.
        by: `"config_type"` never divides a config type either: each goes to one split as a whole.
        hold_out: config types whose trajectories go to the split `held_out` instead, to measure how a model does on
            kinds that it has never seen; validation and test then stay what they are, kinds that it knows.

    Returns:
        Sorted row numbers by split; empty splits are left out.

    Raises:
        InputError: if `split` is neither, a config type to hold out is not there, or the config types are too few to
            be divided as wholes.
    """
    fractions = _fractions(split)
    known = {key.config_type for key in keys}
    if unknown := [kind for kind in hold_out if kind not in known]:
        raise InputError(f"there is no config type {unknown[0]!r} to hold out; there are {', '.join(sorted(known))}")
    held = {key.trajectory for key in keys if key.config_type in hold_out} - {""}  # without a name, a row stands alone
    is_held = [key.config_type in hold_out or key.trajectory in held for key in keys]
    apart = [row for row, away in enumerate(is_held) if away]
    rest = [row for row, away in enumerate(is_held) if not away]
    if fractions is None:
        splits = {split: rest} if rest else {}
    elif by == "trajectory":
        splits = _by_split(_stratified(groups(keys, rest), np.array(fractions), seed))
    else:
        splits = _by_split(_divide(groups(keys, rest, by), np.array(fractions) * len(rest), seed, fill_all=True))
        if empty := [name for name, share in zip(SPLITS, fractions, strict=True) if share > 0 and name not in splits]:
            raise InputError(f"--split {split} by config type leaves {empty[0]} empty: there are too few types for it")
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
        by_type = strata(group for group in found if group.has_forces == has_forces)
        rare = [group for stratum in by_type if len(stratum) < enough for group in stratum]
        missing = np.zeros(len(SPLITS))
        for stratum in [*(stratum for stratum in by_type if len(stratum) >= enough), *([rare] if rare else [])]:
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


def same_trajectory(before: Atoms, after: Atoms) -> bool:
    """Whether `after` holds the same atoms in the same order, each moved by less than `LARGEST_STEP` (minimum image).

    A cell that changes a little is followed: displacements are then those of the fractional coordinates.
    """
    if not np.array_equal(before.numbers, after.numbers) or not np.array_equal(before.pbc, after.pbc):
        return False
    if np.abs(before.cell - after.cell).max() >= LARGEST_STEP:
        return False
    moved = after.cell.complete().scaled_positions(after.positions) @ before.cell.complete()
    steps = shortest_images(moved - before.positions, before.cell, before.pbc)
    return bool(np.linalg.norm(steps, axis=1).max() < LARGEST_STEP)


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """Gives a command `--split` and `--seed`, which [`divide_rows`] understands."""
    parser.add_argument(
        "--split",
        default="0.8,0.1,0.1",
        type=_split_option,
        help="fractions of train, validation and test by trajectory (%(default)s), or one split name for everything",
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of everything random (default %(default)s)")


def _split_option(text: str) -> str:
    """The type of `--split`: checked when the command starts, not when hours of work are to be divided."""
    try:
        _fractions(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _fractions(split: str) -> list[float] | None:
    """The fractions that a `--split` option gives; None where it is a name."""
    if "," not in split:
        split_name(split)
        return None
    try:
        fractions = [float(part) for part in split.split(",")]
        _require_fractions(fractions)
    except ValueError as error:
        raise InputError(
            f"--split {split}: give one name, or three fractions of {', '.join(SPLITS)} that add up to 1"
        ) from error
    return fractions


def _require_fractions(fractions: Sequence[float]) -> None:
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or not abs(sum(fractions) - 1) <= 1e-6:  # not: NaN too
        raise ValueError(f"fractions must be {len(SPLITS)} numbers >= 0 that add up to 1, not {tuple(fractions)}")


def split_name(name: str) -> str:
    """`name` if `datasets` accepts it as the name of a split; [`InputError`] otherwise."""
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name == "all":
        raise InputError(f"{name!r} is no name for a split; use letters, digits and _, such as train, and not 'all'")
    return name
