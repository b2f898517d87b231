"""
Other structures with known labels, made from one: symmetry operations that carry positions, cell and labels along.

A step takes a structure as [`StructureDataset`] gives it and a random generator, and returns a new one; steps compose
in any order, except that `octahedral` needs the cell as it was. Weights and distances to the defect belong to the
atoms and stay as they are. Each step computes in float64 and keeps the type of what it gets; float32 moves an atom by
less than 2e-6 Å in a cell of 16 Å. The forces of `octahedral` and `inversion` are exact to the bit.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from ...crystal.symmetry import OCTAHEDRAL_OPERATIONS, is_cubic, wrapped
from ...errors import InputError

AugmentationStep = Callable[[Any, np.random.Generator], Any]


def octahedral(structure: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """One of the 48 operations of Oh about the origin, then wrapping: exact, as a cubic cell is mapped onto itself.

    Raises:
        [`InputError`]: The cell is no cube along x, y, z that is periodic in all three directions.
    """
    if not is_cubic(structure["cell"], structure["pbc"]):
        raise InputError("octahedral augmentation of a cell that is not cubic")
    operation = OCTAHEDRAL_OPERATIONS[rng.integers(len(OCTAHEDRAL_OPERATIONS))]
    return _moved(structure, wrapped(structure["positions"] @ operation, structure), operation)


def rotation(structure: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A rotation about the origin, uniform on SO(3), of the cell, positions, forces and stress together."""
    operation = Rotation.random(None, rng).as_matrix()
    moved = _moved(structure, structure["positions"] @ operation, operation)
    return moved | {"cell": structure["cell"] @ operation}


def inversion(structure: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Every second time, inversion at the origin and wrapping; after [`rotation`], uniform on O(3).

    The cell stays: a lattice is its own inverse.
    """
    if rng.random() < 0.5:
        return structure
    return _moved(structure, wrapped(-structure["positions"].astype(np.float64), structure), -np.eye(3))


def translation(structure: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A translation, uniform in the cell along its periodic directions, then wrapping."""
    shift = np.where(structure["pbc"], rng.random(3), 0.0) @ structure["cell"]
    return _moved(structure, wrapped(structure["positions"] + shift, structure))


def noise(structure: dict[str, Any], rng: np.random.Generator, sigma: float) -> dict[str, Any]:
    """Gaussian noise of standard deviation `sigma` Å on each coordinate.

    The labels stay, so they are wrong by the change of the forces, in silicon about 0.3 eV/Å per component for
    0.01 Å: this is regularisation, not a symmetry.
    """
    shift = rng.normal(scale=sigma, size=structure["positions"].shape)
    return _moved(structure, structure["positions"] + shift)


STEPS: dict[str, AugmentationStep] = {
    "octahedral": octahedral,
    "rotation": rotation,
    "inversion": inversion,
    "translation": translation,
}


def augmentation_steps(names: Sequence[str], position_noise: float = 0.0) -> list[AugmentationStep]:
    """The steps of these `names` (see `STEPS`), in order, then noise of `position_noise` Å unless that is 0.

    Raises:
        [`InputError`]: An unknown name, `octahedral` after `rotation`, or noise that is negative or not finite.
    """
    for name in names:
        if name not in STEPS:
            raise InputError(f"there is no augmentation {name!r}; there are {', '.join(STEPS)}")
    if "rotation" in names and "octahedral" in names[list(names).index("rotation") :]:
        raise InputError("augmentation: octahedral goes before rotation, which turns the cell away from x, y, z")
    if not 0 <= position_noise < np.inf:
        raise InputError(f"position_noise must be a distance in Å, not {position_noise}")
    return [STEPS[name] for name in names] + ([partial(noise, sigma=position_noise)] if position_noise else [])


def _moved(structure: dict[str, Any], positions: np.ndarray, operation: np.ndarray | None = None) -> dict[str, Any]:
    """`structure` with other positions, and forces and stress turned by `operation` (3, 3) unless that is None."""
    moved = structure | {"positions": positions.astype(structure["positions"].dtype)}
    if operation is not None and structure["forces"] is not None:
        moved["forces"] = (structure["forces"] @ operation).astype(structure["forces"].dtype)
    if operation is not None and structure.get("stress") is not None:
        moved["stress"] = operation.T @ structure["stress"] @ operation
    return moved
