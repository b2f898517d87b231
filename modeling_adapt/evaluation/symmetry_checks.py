"""How far forces are from following what changes no physics: turned, shifted, reordered and repeated structures.

Here forces are any function of a structure, so that every model and every ASE calculator is measured in one way;
[`equivariance`] measures the same of a model in training, in batches and also of energies.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from ..crystal.symmetry import OCTAHEDRAL_OPERATIONS, is_cubic, symmetry_image
from ..simulation.prediction import structure_of

Forces = Callable[[Atoms], np.ndarray]  # of a structure of N atoms, (N, 3) in eV/Å
Images = Callable[[Atoms, np.random.Generator], Iterator[tuple[Atoms, Callable[[np.ndarray], np.ndarray]]]]

ROTATIONS = 4  # random ones of each structure
LONGEST_SHIFT = 10.0  # Å


def symmetry_error(forces: Forces, structures: Sequence[Atoms], images: Images) -> float | None:
    """
    RMS over atoms, components and images, in eV/Å, of the forces on an image of a structure minus what the forces on
    the structure say that they are.

    Args:
        images: one of `octahedral`, `rotated`, `shifted`, `reordered` and `repeated`; what is random in it is the same
            at every call.

    Returns:
        None where there is no image.
    """
    squares, number = 0.0, 0
    for index, atoms in enumerate(structures):
        before = forces(atoms)
        for image, follow in images(atoms, np.random.default_rng(index)):
            error = forces(image) - follow(before)
            squares, number = squares + float(np.square(error).sum()), number + error.size
    return (squares / number) ** 0.5 if number else None


def octahedral(atoms: Atoms, rng: np.random.Generator) -> Iterator[tuple[Atoms, Callable[[np.ndarray], np.ndarray]]]:
    """The 47 operations of Oh besides the identity, with wrapping; none where the cell is no cube."""
    if is_cubic(atoms.cell.array, atoms.pbc):
        for operation in OCTAHEDRAL_OPERATIONS[1:]:
            yield _turned(atoms, operation)


def rotated(atoms: Atoms, rng: np.random.Generator) -> Iterator[tuple[Atoms, Callable[[np.ndarray], np.ndarray]]]:
    """`ROTATIONS` random rotations of atoms and cell."""
    for operation in Rotation.random(ROTATIONS, rng).as_matrix():
        yield _turned(atoms, operation)


def shifted(atoms: Atoms, rng: np.random.Generator) -> Iterator[tuple[Atoms, Callable[[np.ndarray], np.ndarray]]]:
    """A random shift of all atoms, and wrapping."""
    image = _copy(atoms)
    image.positions += rng.uniform(-LONGEST_SHIFT, LONGEST_SHIFT, 3)
    image.wrap()
    yield image, lambda forces: forces


def reordered(atoms: Atoms, rng: np.random.Generator) -> Iterator[tuple[Atoms, Callable[[np.ndarray], np.ndarray]]]:
    """Another order of the atoms."""
    order = rng.permutation(len(atoms))
    yield _copy(atoms)[order], lambda forces: forces[order]


def repeated(atoms: Atoms, rng: np.random.Generator) -> Iterator[tuple[Atoms, Callable[[np.ndarray], np.ndarray]]]:
    """The same crystal in a cell written twice; none where the first direction is not periodic."""
    if atoms.pbc[0]:
        yield _copy(atoms) * (2, 1, 1), lambda forces: np.concatenate([forces, forces])


def _turned(atoms: Atoms, operation: np.ndarray) -> tuple[Atoms, Callable[[np.ndarray], np.ndarray]]:
    image = symmetry_image(structure_of(atoms), operation)
    turned = Atoms(atoms.numbers, image["positions"], cell=image["cell"], pbc=atoms.pbc)
    return turned, lambda forces: forces @ operation


def _copy(atoms: Atoms) -> Atoms:
    """Without the arrays and the calculator that came along."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
