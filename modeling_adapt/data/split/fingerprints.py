"""A few numbers for each structure that hardly change when its atoms move a little, however they are ordered."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from ase.geometry import complete_cell

from ...elements_adapt import SYMBOLS
from ..columns import flat_values, list_column, tables

_WAVES = 24
_REACH = 3  # largest wave number along a cell vector
_OPEN_LENGTH = 10.0  # Å; longest wave along directions that are not periodic
_MARGIN = 2.0  # atoms that move alike change a fingerprint more than atoms that move at random


class Structure(NamedTuple):
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
        rows: (M,) their numbers.
        values: (M, 48) float32.
        cells: (M, 3, 3) in Å.
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

    def _amplitudes(self, composition: Composition, structure: Structure) -> np.ndarray:
        if composition not in self._waves:
            self._waves[composition] = _longest_waves(structure.cell)
        table = np.zeros(len(SYMBOLS))
        table[[number for number, _ in composition.atoms]] = _weights(composition)
        phases = structure.fractional @ (2 * np.pi * self._waves[composition].T)
        weights = table[structure.numbers]
        return np.concatenate([weights @ np.cos(phases), weights @ np.sin(phases)]).astype(np.float32)


def structures(table: pa.Table) -> Iterable[Structure]:
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
        yield Structure(numbers, fractional, cell, pbc)


def _composition(structure: Structure) -> Composition:
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
