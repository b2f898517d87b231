"""Silicon as a model was trained on it, and what leaves the forces of a structure as they are."""

import numpy as np
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation

from modeling_adapt.data.structures import structure_row
from modeling_adapt.simulation.calculator import ADAPTCalculator

PERFECT = bulk("Si", cubic=True) * 2
EDGE = PERFECT.cell.array[0, 0]
TETRAHEDRAL = np.full(3, EDGE / 4)  # an interstitial site of silicon, on a lattice plane along each edge


def perfect() -> Atoms:
    return PERFECT.copy()


def vacancy(site: int = 9) -> Atoms:
    atoms = PERFECT.copy()
    del atoms[site]
    return atoms


def interstitial() -> Atoms:
    return PERFECT + Atoms("Si", [TETRAHEDRAL])


def mid_plane() -> Atoms:
    """A hexagonal interstitial, half way between two lattice planes."""
    return PERFECT + Atoms("Si", [EDGE / 2 * np.array([5, 3, 3]) / 8])


def substitution() -> Atoms:
    atoms = PERFECT.copy()
    atoms.symbols[5] = "C"
    return atoms


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    """Noise carries atoms of the plane at 0 to both sides of the boundary."""
    atoms.rattle(0.08, seed=seed)
    return atoms


def row(atoms: Atoms) -> dict:
    return structure_row(atoms, np.zeros((len(atoms), 3)))


def training_rows() -> list[dict]:
    makers = (perfect, vacancy, interstitial, substitution)
    rows = [row(rattled(make(), seed)) for seed, make in enumerate(makers)]
    return [*rows, row(perfect()), row(mid_plane())]


def forces(model, atoms: Atoms) -> np.ndarray:
    """Of a fresh calculator, which has seen nothing before."""
    return ADAPTCalculator(model, outside_domain="ignore").get_property("forces", atoms)


def shifted(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    atoms.positions += rng.normal(scale=5, size=3)
    return np.eye(3)


def wrapped(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    """Every atom into the cell, then some of them far out of it."""
    atoms.wrap()
    atoms.positions += rng.integers(-2, 3, size=(len(atoms), 3)) @ atoms.cell.array
    return np.eye(3)


def turned(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    rotation = Rotation.random(None, rng).as_matrix()
    atoms.set_cell(atoms.cell.array @ rotation)
    atoms.positions = atoms.positions @ rotation
    return rotation


def sheared(atoms: Atoms) -> Atoms:
    lean = np.radians(85)
    cell = EDGE * np.array([[1, 0, 0], [np.cos(lean), np.sin(lean), 0], [0, 0, 1]])
    atoms.set_cell(cell, scale_atoms=True)
    return atoms
