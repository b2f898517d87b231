"""Structures that are nearly the same and yet in different splits: what a test set must not have."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import datasets
import numpy as np
from scipy.spatial import cKDTree

from ...errors import InputError
from .fingerprints import Fingerprinter, Fingerprints, Structure, structures

_AXES = 8  # along which the tree searches; beyond about ten a tree looks at everything
_PAIRS_PER_SEARCH = 200_000  # bounds the memory, as
_ATOMS_PER_READ = 2_000_000  # does this, for the structures that are compared at a time
_PROBES = 8  # atoms that are looked at before all
_NO_NEIGHBOUR = 0.4  # Å; two atoms are never that near to each other


@dataclass(frozen=True)
class NearDuplicate:
    """Two rows of different splits, and the largest distance in Å between an atom and its counterpart."""

    splits: tuple[str, str]
    rows: tuple[int, int]
    distance: float


def near_duplicates(splits: Mapping[str, datasets.Dataset], tolerance: float = 0.05) -> Iterator[NearDuplicate]:
    """
    Finds pairs of structures in different splits that have the same elements and, within `tolerance`, the same cell
    vectors, and in which each atom is within `tolerance` of one of its element in the other; in any order of the
    atoms, periodic images included.

    A tree finds structures with similar fingerprints; only these are compared atom by atom, so that the effort grows
    little faster than the number of structures. Shifted copies are different structures here: to a model that reads
    coordinates they are, and in a perfect crystal all vacancies are shifted copies of each other.

    Args:
        splits: rows as [`read_split`] returns them.
        tolerance: in Å, below 0.4. Steps of a relaxation near its end differ by less than 0.05 Å, independent
            snapshots at room temperature by far more.

    Raises:
        InputError: if the tolerance is so large that atoms could be confused.
    """
    if not 0 < tolerance < _NO_NEIGHBOUR:
        raise InputError(
            f"a tolerance of {tolerance:g} Å is not between 0 and {_NO_NEIGHBOUR} Å, where atoms are distinct"
        )
    fingerprinter = Fingerprinter()
    found = {split: fingerprinter(rows) for split, rows in splits.items()}
    for first, second in combinations(splits, 2):
        for composition in sorted(found[first].keys() & found[second].keys()):
            a, b = found[first][composition], found[second][composition]
            radius = fingerprinter.radius(composition, np.concatenate([a.cells, b.cells]), tolerance)
            size = _ATOMS_PER_READ // sum(count for _, count in composition.atoms) + 1
            for candidates in _candidates(a, b, radius, tolerance):
                rows = np.stack([a.rows[candidates[:, 0]], b.rows[candidates[:, 1]]], axis=1)
                for start in range(0, len(rows), size):
                    compared = _compared(splits[first], splits[second], rows[start : start + size], tolerance)
                    yield from (NearDuplicate((first, second), pair, distance) for pair, distance in compared)


def _candidates(a: Fingerprints, b: Fingerprints, radius: float, tolerance: float) -> Iterator[np.ndarray]:
    """Pairs (P, 2) of members of `a` and `b` with similar fingerprints and cells."""
    axes = _main_axes(np.concatenate([a.values, b.values]))
    points, tree = a.values @ axes, cKDTree(b.values @ axes)
    counts = tree.query_ball_point(points, radius, return_length=True)
    for members in _blocks(counts, _PAIRS_PER_SEARCH):
        near = cKDTree(points[members]).sparse_distance_matrix(tree, radius, output_type="ndarray")
        pairs = np.stack([members[near["i"]], near["j"]], axis=1)
        pairs = pairs[np.lexsort(pairs.T)]  # by the many of `b`, so that neighbours in this list share structures
        alike = np.linalg.norm(a.values[pairs[:, 0]] - b.values[pairs[:, 1]], axis=1) <= radius
        alike &= np.abs(a.cells[pairs[:, 0]] - b.cells[pairs[:, 1]]).max(axis=(1, 2)) <= tolerance
        yield pairs[alike]


def _blocks(counts: np.ndarray, size: int) -> list[np.ndarray]:
    """Members that have any pairs, in blocks with about `size` pairs together."""
    members = np.flatnonzero(counts)
    block = np.cumsum(counts[members]) // size
    return np.split(members, np.flatnonzero(np.diff(block)) + 1) if len(members) else []


def _main_axes(values: np.ndarray) -> np.ndarray:
    """(48, 8) orthonormal axes along which fingerprints differ most; distances along them are never longer."""
    return np.linalg.eigh(np.cov(values.T.astype(np.float64)))[1][:, -_AXES:]


def _compared(
    first: datasets.Dataset, second: datasets.Dataset, rows: np.ndarray, tolerance: float
) -> Iterator[tuple[tuple[int, int], float]]:
    """Those of the pairs of rows (P, 2), of one composition, that are near duplicates, and their distances."""
    (a, in_a), (b, in_b) = _structures(first, rows[:, 0]), _structures(second, rows[:, 1])
    left = np.arange(len(rows))
    few = slice(None, None, -(-len(a[0].fractional) // _PROBES))
    for some in (few, slice(None)):  # a few atoms tell for most candidates
        before = np.array([structure.fractional[some] for structure in a])[in_a[left]]
        after = np.array([structure.fractional[some] for structure in b])[in_b[left]]
        cells = np.array([structure.cell for structure in a])[in_a[left]]
        lengths = _lengths(before - after, cells, a[0].pbc)
        # In the order of the file, an atom has moved too far, yet not to another one's place.
        left = left[~np.any((lengths > tolerance) & (lengths < _NO_NEIGHBOUR), axis=1)]
    for pair in left:
        distance = largest_displacement(a[in_a[pair]], b[in_b[pair]], tolerance)
        if distance <= tolerance:
            yield (int(rows[pair, 0]), int(rows[pair, 1])), distance


def _structures(rows: datasets.Dataset, numbers: np.ndarray) -> tuple[list[Structure], np.ndarray]:
    """Each structure once, and for each of the row numbers the place of its structure among them."""
    unique, places = np.unique(numbers, return_inverse=True)
    return list(structures(rows.with_format("arrow")[unique])), places


def largest_displacement(first: Structure, second: Structure, tolerance: float) -> float:
    """The largest distance in Å between an atom of `first` and the nearest of `second`, if that pairs all atoms.

    Infinite where an atom has none within `tolerance` (small against the distances between atoms), or one of another
    element. Atoms are paired in fractional coordinates, so cells may differ a little.
    """
    a, b = first.fractional, second.fractional
    some = slice(None, None, -(-len(a) // _PROBES))  # few atoms show at once that most candidates are none
    if _lengths(a[some, None] - b, first.cell, first.pbc).min(axis=1).max() > tolerance:
        return np.inf
    # Along the normals of the cell's faces atoms are never farther from each other than they are.
    heights = 1 / np.linalg.norm(np.linalg.inv(first.cell), axis=0)
    tree = cKDTree(b * heights, boxsize=np.where(first.pbc, heights, 0.0))
    _, nearest = tree.query(a * heights, p=np.inf, distance_upper_bound=tolerance)
    if nearest.max() == len(b) or len(np.unique(nearest)) < len(a):
        return np.inf
    if (first.numbers != second.numbers[nearest]).any():
        return np.inf
    return float(_lengths(a - b[nearest], first.cell, first.pbc).max())


def _lengths(steps: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Lengths in Å of fractional steps (..., 3), each across the nearest boundaries."""
    return np.linalg.norm((steps - np.where(pbc, np.rint(steps), 0.0)) @ cell, axis=-1)
