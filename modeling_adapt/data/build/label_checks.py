"""Labels that look wrong: far outside of the rest, or forces that have nothing to do with where the atoms are."""

from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from ...crystal.symmetry import atoms_of
from ..columns import flat_values, list_column, list_lengths, tables
from ..load.reading import read_splits
from ..load.survey import element_counts
from ..options import ISOLATED

FAR = 20.0  # robust standard deviations from the median of the energies, and medians of the largest forces
LEAST_ENERGY, LEAST_FORCE = 1.0, 20.0  # eV an atom and eV/Å; nearer than that to the rest, nothing is far
UNEXPLAINED = 0.05  # share of the forces; of DFT forces, springs explain several times as much
_SAMPLE = 100  # structures whose forces are compared with springs
_REACH = np.arange(1.0, 5.01, 0.25)  # Å; the distances at which a spring has a strength of its own
_ROWS_A_PARAMETER = 10  # forces that there must be for each of them


def doubtful_labels(dataset: str | Path) -> list[str]:
    """
    A line for each structure of a data set whose energy or largest force is far outside of the rest, energies by their
    difference to what the composition explains; and one if springs between neighbours, fitted to the forces, explain
    next to nothing of them.
    """
    with TemporaryDirectory() as cache:  # read once; and the home of a cluster may be read-only
        rows = datasets.concatenate_datasets(list(read_splits(dataset, cache).values()))
        rows = rows.select(np.flatnonzero(np.array(rows["config_type"]) != ISOLATED))
        return [*_far_outside(rows), *_without_springs(rows)] if len(rows) else []


def _far_outside(rows: datasets.Dataset) -> list[str]:
    columns: dict[str, list[np.ndarray]] = {"counts": [], "energies": [], "forces": []}
    for _, table in tables(rows.select_columns(["atomic_numbers", "energy", "forces"])):
        lengths = list_lengths(table, "atomic_numbers")
        columns["counts"].append(element_counts(flat_values(table, "atomic_numbers"), lengths))
        columns["energies"].append(table["energy"].to_numpy())
        columns["forces"].append(np.array([_largest(forces) for forces in list_column(table, "forces")]))
    counts, energies, forces = (np.concatenate(pieces) for pieces in columns.values())
    above, sources = _above_composition(counts, energies), rows["source"]
    middle = float(np.nanmedian(forces)) if np.isfinite(forces).any() else np.nan
    deviation = 1.4826 * float(np.nanmedian(np.abs(above))) if np.isfinite(above).any() else np.nan
    lines = [
        f"{sources[row]}: its energy is {above[row]:+.4g} eV an atom from what the others of its elements have"
        for row in np.flatnonzero(np.abs(above) > max(FAR * deviation, LEAST_ENERGY))
    ]
    return lines + [
        f"{sources[row]}: a force of {forces[row]:.4g} eV/Å, where half of the structures have none above {middle:.2g}"
        for row in np.flatnonzero(forces > max(FAR * middle, LEAST_FORCE))
    ]


def _largest(forces: np.ndarray | None) -> float:
    return np.nan if forces is None else float(np.linalg.norm(forces, axis=1).max())


def _above_composition(counts: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """
    (B,) energy an atom minus an energy for each element, and minus the median of that: by least absolute deviations
    (iteratively reweighted), which what is far outside does not shift.
    """
    above = np.full(len(energies), np.nan)
    known = np.isfinite(energies)
    if not known.any():
        return above
    shares = counts[known] / counts[known].sum(axis=1, keepdims=True)
    values = energies[known] / counts[known].sum(axis=1)
    weights = np.ones(len(values))
    for _ in range(20):
        solution = np.linalg.lstsq(shares * weights[:, None], values * weights, rcond=None)[0]
        rest = values - shares @ solution
        weights = 1 / np.sqrt(np.maximum(np.abs(rest), 1e-6))
    above[known] = rest - np.median(rest)
    return above


def _without_springs(rows: datasets.Dataset) -> list[str]:
    """One line, or none where springs explain the forces or there are too few to tell."""
    column = rows.select_columns(["forces"]).with_format("arrow")[:]["forces"]
    with_forces = np.flatnonzero(column.is_valid().to_numpy())
    chosen = with_forces[:: -(-len(with_forces) // _SAMPLE)] if len(with_forces) else with_forces
    sample = [rows[int(row)] for row in chosen]
    elements = sorted({number for row in sample for number in row["atomic_numbers"]})
    pairs = len(elements) * (len(elements) + 1) // 2
    size = sum(3 * len(row["atomic_numbers"]) for row in sample)
    if size < _ROWS_A_PARAMETER * len(_REACH) * pairs:  # springs that are the same between all elements need fewer
        elements, pairs = [], 1
    if size < _ROWS_A_PARAMETER * len(_REACH) * pairs:
        return []
    springs = np.concatenate([_springs(atoms_of(row), elements) for row in sample])
    forces = np.concatenate([np.ravel(row["forces"]) for row in sample])
    total = float(np.square(forces).sum())
    if total < 1e-6 * size:  # a perfect crystal
        return []
    rest = forces - springs @ np.linalg.lstsq(springs, forces, rcond=None)[0]
    explained = 1 - float(np.square(rest).sum()) / total * size / (size - springs.shape[1])
    if explained > UNEXPLAINED:
        return []
    return [
        f"forces: springs between neighbours explain {max(explained, 0):.0%} of those of {len(sample)} structures, so "
        "they may have nothing to do with the positions; are they of these structures, in this order of atoms?"
    ]


def _springs(atoms: Atoms, elements: list[int]) -> np.ndarray:
    """(3N, pairs of elements x strengths) forces of springs of unit strength at each distance of `_REACH`."""
    first, second, distances, vectors = neighbor_list("ijdD", atoms, _REACH[-1])
    strengths = np.exp(-0.5 * np.square((distances[:, None] - _REACH) / 0.25))
    kinds = np.zeros(len(first), dtype=np.int64)
    if elements:
        low, high = np.sort(np.searchsorted(elements, atoms.numbers)[[first, second]], axis=0)
        kinds += high * (high + 1) // 2 + low
    forces = np.zeros((len(atoms), 3, max(len(elements) * (len(elements) + 1) // 2, 1), len(_REACH)))
    each = (vectors / distances[:, None])[:, :, None] * strengths[:, None, :]
    for axis in range(3):
        np.add.at(forces[:, axis], (first, kinds), each[:, axis])
    return forces.reshape(3 * len(atoms), -1)
