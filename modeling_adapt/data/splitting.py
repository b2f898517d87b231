"""Which structures belong together, and their division into train, validation and test.

Frames of one relaxation are nearly the same structure: a split through a trajectory tests memory, not prediction.
"""

import argparse
import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from ..command_line import whole_number
from ..errors import InputError
from .minimum_image import shortest_images

SPLITS = ("train", "validation", "test")
LARGEST_STEP = 1.0  # Å; between neighbouring frames of one trajectory no atom and no cell vector moves farther


def split_by_trajectory(
    trajectories: Sequence[Hashable], fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> dict[str, list[int]]:
    """Divides structures into train, validation and test without dividing a trajectory.

    Trajectories in seeded random order go, one by one, where most structures are still missing; ties go to the first
    split. So train is filled first, and with few trajectories the others may stay empty.

    Args:
        trajectories: the trajectory of every structure.
        fractions: wanted shares of train, validation and test, adding up to 1.

    Returns:
        Sorted structure indices by split; empty splits are left out.
    """
    _require_fractions(fractions)
    members: dict[Hashable, list[int]] = {}
    for index, trajectory in enumerate(trajectories):
        members.setdefault(trajectory, []).append(index)
    groups = list(members.values())
    wanted = np.array(fractions) * len(trajectories)
    chosen: list[list[int]] = [[] for _ in SPLITS]
    for which in np.random.default_rng(seed).permutation(len(groups)):
        split = int(np.argmax(np.round(wanted, 6)))  # rounded so that equal shares tie
        chosen[split] += groups[which]
        wanted[split] -= len(groups[which])
    return {name: sorted(indices) for name, indices in zip(SPLITS, chosen, strict=True) if indices}


def trajectory_starts(frames: Sequence[Atoms]) -> list[int]:
    """For every frame of a file the index of the first frame of its trajectory.

    A frame continues the trajectory of the one before it if [`same_trajectory`] says so.
    """
    starts: list[int] = []
    for index, atoms in enumerate(frames):
        continues = index > 0 and same_trajectory(frames[index - 1], atoms)
        starts.append(starts[-1] if continues else index)
    return starts


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
    """Gives a command `--split` and `--seed`, which [`assign_splits`] understands."""
    parser.add_argument(
        "--split",
        default="0.8,0.1,0.1",
        type=_split_option,
        help="fractions of train, validation and test by trajectory (%(default)s), or one split name for everything",
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of everything random (default %(default)s)")


def assign_splits(rows: Sequence[dict[str, Any]], split: str = "0.8,0.1,0.1", seed: int = 0) -> dict[str, list[dict]]:
    """Rows by split name, for the `--split` option of the commands.

    Structures with forces and structures with an energy alone are divided separately: they train different models, and
    each needs a train split.

    Args:
        rows: rows of [`structure_row`].
        split: three fractions for train, validation and test (by trajectory), or the name of one split for all rows.

    Raises:
        InputError: if `split` is neither.
    """
    fractions = _fractions(split)
    if fractions is None:
        return {split: list(rows)}
    rows_by_split: dict[str, list[dict]] = {}
    for has_forces in (True, False):
        alike = [row for row in rows if (row["forces"] is not None) == has_forces]
        indices = split_by_trajectory([row["trajectory"] for row in alike], fractions, seed)
        for name, chosen in indices.items():
            rows_by_split.setdefault(name, []).extend(alike[index] for index in chosen)
    return rows_by_split


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
