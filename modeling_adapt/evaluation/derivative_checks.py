"""How forces change when atoms move: whether they can be the gradient of an energy, and whether they jump.

Finite differences, so that any function of a structure can be looked at; it should compute in float64.
"""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ..crystal.minimum_image import shortest_images
from .symmetry_checks import Forces

STEP = 1e-3  # Å; of the central differences
DIRECTIONS = 24  # random ones; structures with no more coordinates than twice that are done exactly
REACH = 0.3  # Å; how far the scan goes to both sides
SCAN_STEP = 0.01  # Å
FINEST_STEP = 1e-5  # Å; over which smooth forces do not change by more than rounding
PLACES = 3  # of the scan that are looked at more closely


def jacobian_asymmetry(forces: Forces, structures: Sequence[Atoms]) -> float | None:
    """
    |J - J^T| / |J + J^T| (Frobenius norms over all structures) of J = dF/dR: 0 where forces are the gradient of an
    energy, 1 for a J without relation to its transpose, and larger only where forces circulate.

    Central differences along directions w give J w, and products with the same directions v^T J w. For independent
    standard normal v and w, the mean of (v^T A w)^2 is |A|^2 (Hutchinson); K directions thus give K (K - 1) / 2
    samples for 2 K calls. With 24 of them the ratio is right to about 5 % of itself. Where there are few coordinates
    the directions are these, and the ratio is exact.

    Returns:
        None where no force changes at all.
    """
    rng = np.random.default_rng(0)
    difference, total = 0.0, 0.0
    for atoms in structures:
        size = 3 * len(atoms)
        exact = size <= 2 * DIRECTIONS
        directions = np.eye(size) if exact else rng.normal(size=(DIRECTIONS, size))
        products = np.array([_along(forces, atoms, one.reshape(-1, 3)) @ directions.T for one in directions])
        below = np.tri(len(products), k=-1)  # of a direction with itself, v^T J v says nothing of the asymmetry
        weight = np.ones_like(products) if exact else below / below.sum()
        difference += float((weight * np.square(products - products.T)).sum())
        total += float((weight * np.square(products + products.T)).sum())
    return (difference / total) ** 0.5 if total > 0 else None


def _along(forces: Forces, atoms: Atoms, direction: np.ndarray) -> np.ndarray:
    """(3 N,) in eV/Å^2: J times `direction` (N, 3)."""
    moved = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    sides = []
    for sign in (1, -1):
        moved.positions = atoms.positions + sign * STEP * direction
        sides.append(forces(moved).ravel())
    return (sides[0] - sides[1]) / (2 * STEP)


def scan_jump(forces: Forces, atoms: Atoms, index: int) -> float | None:
    """
    Largest jump of any force component in eV/Å while the atom `index` moves along the bond to its nearest neighbour,
    from 0.3 Å away from it to 0.3 Å towards it.

    Half the third difference shows a jump whole at the step that has it; of smooth forces it falls with the cube of
    the step, of a kink with the step itself. Where it is largest, the step is halved until only a jump is left.

    Returns:
        None for an atom without neighbour.
    """
    vectors = shortest_images(atoms.positions - atoms.positions[index], atoms.cell.array, atoms.pbc)
    distances = np.linalg.norm(vectors, axis=1)
    distances[index] = np.inf
    nearest = int(distances.argmin())
    if not np.isfinite(distances[nearest]):
        return None
    bond = vectors[nearest] / distances[nearest]
    moved = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)

    def at(offset: float) -> np.ndarray:
        moved.positions[index] = atoms.positions[index] + offset * bond
        return forces(moved)

    steps = round(REACH / SCAN_STEP)
    offsets = SCAN_STEP * np.arange(-steps, steps + 1)
    series = np.array([at(offset) for offset in offsets])
    jumps = np.abs(np.diff(series, n=3, axis=0)).max(axis=(1, 2)) / 2
    largest = 0.0
    for place in np.argsort(jumps)[-PLACES:]:
        low, step = float(offsets[place + 1]), SCAN_STEP
        before, after = series[place + 1], series[place + 2]
        jump = float(jumps[place])
        while step > FINEST_STEP:
            step /= 2
            middle = at(low + step)
            first = np.abs(after - 3 * middle + 3 * before - at(low - step)).max() / 2
            second = np.abs(at(low + 3 * step) - 3 * after + 3 * middle - before).max() / 2
            jump = float(max(first, second))
            if first >= second:
                after = middle
            else:
                low, before = low + step, middle
        largest = max(largest, jump)
    return largest
