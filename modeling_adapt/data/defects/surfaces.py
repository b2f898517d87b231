"""Silicon without point defects but not in its bulk equilibrium: strained cells and surfaces."""

import numpy as np
from ase import Atoms
from ase.build import bulk, cut

from .point_defects import Defect

_LARGEST_STRAIN = 0.03
_VACUUM = 12.0  # Å
# Orthogonal cells in multiples of the cubic lattice vectors: two along the surface, one out of it.
_FACES = (
    ((0.5, 0.5, 0.0), (-0.5, 0.5, 0.0), (0.0, 0.0, 1.0)),  # (100)
    ((0.5, -0.5, 0.0), (0.5, 0.5, -1.0), (1.0, 1.0, 1.0)),  # (111)
)
_CUT = (0.125, 0.125, 0.125)  # between two layers; of (111) the widely spaced ones, so that each atom loses one bond


def strained_crystal(host: Atoms, rng: np.random.Generator) -> Defect:
    """The host under a random symmetric strain of up to 3 % in each entry."""
    atoms = host.copy()
    atoms.set_cell(atoms.cell.array @ random_deformation(_LARGEST_STRAIN, rng), scale_atoms=True)
    return Defect(atoms, "bulk_strained")


def random_deformation(strain: float, rng: np.random.Generator) -> np.ndarray:
    """(3, 3) symmetric deformation that rows of positions and of the cell are multiplied with."""
    tensor = rng.uniform(-strain, strain, size=(3, 3))
    return np.eye(3) + (tensor + tensor.T) / 2


def surface(host: Atoms, rng: np.random.Generator) -> Defect:
    """An ideal (100) or (111) slab, about as wide and as thick as the host.

    It is periodic in all directions, with 12 Å of vacuum, as plane-wave codes need it; the normal is along z.
    """
    repeat = round((len(host) / 8) ** (1 / 3))
    edge = host.cell.lengths()[0]
    crystal = bulk("Si", "diamond", a=edge / repeat, cubic=True)
    along, across, outward = _FACES[rng.integers(len(_FACES))]
    unit = cut(crystal, a=along, b=across, c=outward, origo=_CUT)
    unit.set_cell(unit.cell.lengths(), scale_atoms=True)  # turns the orthogonal cell into the coordinate system
    slab = unit * np.maximum(1, np.rint(edge / unit.cell.lengths())).astype(int)
    slab.cell[2, 2] += _VACUUM
    slab.center(axis=2)
    return Defect(slab, "surface")
