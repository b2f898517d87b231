"""Structures that are nearly the same and yet in different splits: what a test set must not have.

A fingerprint, a few numbers that hardly change when atoms move a little, however they are ordered, finds candidates;
these are compared atom by atom.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from ase.geometry import complete_cell
from scipy.spatial import cKDTree

from ...elements_adapt import SYMBOLS
from ...errors import InputError
from ..columns import flat_values, list_column, tables

_WAVES = 24
_REACH = 3  # largest wave number along a cell vector
_OPEN_LENGTH = 10.0  # Å; longest wave along directions that are not periodic
_MARGIN = 2.0  # atoms that move alike change a fingerprint more than atoms that move at random
_AXES = 8  # along which the tree searches; beyond about ten a tree looks at everything
_PAIRS_PER_SEARCH = 200_000  # bounds the memory, as
_ATOMS_PER_READ = 2_000_000  # does this, for the structures that are compared at a time
_PROBES = 8  # atoms that are looked at before all
_NO_NEIGHBOUR = 0.4  # Å; two atoms are never that near to each other


class FractionalStructure(NamedTuple):
    """n atoms: numbers (n,), fractional coordinates (n, 3), cell (3, 3) in Å, periodic directions (3,).

    Coordinates along periodic directions are in [0, 1). Rows of the cell along the others are perpendicular to these.
    """

    numbers: np.ndarray
    fractional: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray


class Composition(NamedTuple):
    """What structures have in common whose fingerprints can be compared."""

    atoms: tuple[tuple[int, int], ...]  # atomic number and number of atoms
    pbc: tuple[bool, ...]


@dataclass
class Fingerprints:
    """Of M structures with the same composition.

    Args:
        rows (`np.ndarray` of shape `(M,)`): Their numbers.
        values (`np.ndarray` of shape `(M, 48)`): Float32.
        cells (`np.ndarray` of shape `(M, 3, 3)`): In Å.
    """

    rows: np.ndarray
    values: np.ndarray
    cells: np.ndarray


class Fingerprinter:
    """Fingerprints: amplitudes of the longest waves that fit into the cell, F(k) = sum_j w_j exp(i k r_j).

    They depend on neither the order of the atoms nor the periodic image. Rare elements get larger weights w_j, so that
    it matters where they are. The waves are those of the first structure with its composition that is seen.
    """

    def __init__(self) -> None:
        self._waves: dict[Composition, np.ndarray] = {}

    def __call__(self, rows: datasets.Dataset) -> dict[Composition, Fingerprints]:
        """Fingerprints of all rows of [`read_split`]."""
        parts: dict[Composition, list[tuple[int, np.ndarray, np.ndarray]]] = defaultdict(list)
        for start, table in tables(rows):
            for row, structure in enumerate(structures(table), start):
                composition = _composition(structure)
                parts[composition].append((row, self._amplitudes(composition, structure), structure.cell))
        found = {}
        for composition, part in parts.items():
            numbers, values, cells = zip(*part, strict=True)
            found[composition] = Fingerprints(np.array(numbers), np.array(values), np.array(cells))
        return found

    def radius(self, composition: Composition, cells: np.ndarray, tolerance: float) -> float:
        """How far apart fingerprints are at most, if no atom moves by more than `tolerance` Å.

        Independent random displacements of that length change F(k) by w k / sqrt(3) of it for each atom, in random
        directions of the complex plane; a margin of 2 is for displacements that are alike.
        """
        waves = 2 * np.pi * self._waves[composition] @ np.linalg.inv(cells).transpose(0, 2, 1)
        longest = (waves**2).sum(axis=(1, 2)).max()
        counts = np.array([count for _, count in composition.atoms])
        return _MARGIN * tolerance * float(np.sqrt((_weights(composition) ** 2 * counts).sum() * longest / 3))

    def _amplitudes(self, composition: Composition, structure: FractionalStructure) -> np.ndarray:
        if composition not in self._waves:
            self._waves[composition] = _longest_waves(structure.cell)
        table = np.zeros(len(SYMBOLS))
        table[[number for number, _ in composition.atoms]] = _weights(composition)
        phases = structure.fractional @ (2 * np.pi * self._waves[composition].T)
        weights = table[structure.numbers]
        return np.concatenate([weights @ np.cos(phases), weights @ np.sin(phases)]).astype(np.float32)


def structures(table: pa.Table) -> Iterable[FractionalStructure]:
    """The structures of a table with the columns of `STRUCTURE_FEATURES`."""
    cells = flat_values(table, "cell").reshape(-1, 3, 3)
    columns = (list_column(table, "atomic_numbers"), list_column(table, "positions"))
    for numbers, positions, cell, pbc in zip(*columns, cells, flat_values(table, "pbc").reshape(-1, 3), strict=True):
        assert numbers is not None and positions is not None  # rows of `read_split` have both
        if not pbc.all():
            cell = complete_cell(np.where(pbc[:, None], cell, 0.0))
            cell[~pbc] *= _OPEN_LENGTH  # these are unit vectors
        fractional = positions.astype(np.float64) @ np.linalg.inv(cell)
        fractional -= np.where(pbc, np.floor(fractional), 0.0)
        fractional[:, pbc] %= 1.0  # rounding takes what is just below zero to one
        yield FractionalStructure(numbers, fractional, cell, pbc)


def _composition(structure: FractionalStructure) -> Composition:
    numbers, counts = np.unique(structure.numbers, return_counts=True)
    return Composition(tuple(zip(numbers.tolist(), counts.tolist(), strict=True)), tuple(structure.pbc.tolist()))


def _weights(composition: Composition) -> np.ndarray:
    """1, 3, 5, ... from the most common element to the rarest, in the order of `composition.atoms`."""
    ranks = np.argsort(np.argsort([-count for _, count in composition.atoms], kind="stable"))
    return 1.0 + 2.0 * ranks


def _longest_waves(cell: np.ndarray) -> np.ndarray:
    """(24, 3) integer wave numbers of the longest waves in the cell; of k and -k only one."""
    steps = np.arange(-_REACH, _REACH + 1)
    numbers = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    numbers = numbers[len(numbers) // 2 + 1 :]  # lexicographic order: the half behind zero
    lengths = np.linalg.norm(numbers @ np.linalg.inv(cell).T, axis=1)
    return numbers[np.argsort(np.round(lengths, 9), kind="stable")[:_WAVES]]


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
        splits (`Mapping[str, datasets.Dataset]`): Rows as [`read_split`] returns them.
        tolerance (`float`, defaults to `0.05`):
            In Å, below 0.4. Steps of a relaxation near its end differ by less than 0.05 Å, independent snapshots at
            room temperature by far more.

    Raises:
        [`InputError`]: The tolerance is so large that atoms could be confused.
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
        distance = _largest_distance(a[in_a[pair]], b[in_b[pair]], tolerance)
        if distance <= tolerance:
            yield (int(rows[pair, 0]), int(rows[pair, 1])), distance


def _structures(rows: datasets.Dataset, numbers: np.ndarray) -> tuple[list[FractionalStructure], np.ndarray]:
    """Each structure once, and for each of the row numbers the place of its structure among them."""
    unique, places = np.unique(numbers, return_inverse=True)
    return list(structures(rows.with_format("arrow")[unique])), places


def _largest_distance(first: FractionalStructure, second: FractionalStructure, tolerance: float) -> float:
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
