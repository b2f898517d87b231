"""How far forces are from following what changes no physics: turned, shifted, reordered and repeated structures.

[`symmetry_error`] takes forces as any function of a structure, so that every model and every ASE calculator is
measured in one way; [`octahedral_error`] and [`rotation_error`] are for a model in training, in batches and also of
energies.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
from ase import Atoms
from ase.geometry.minkowski_reduction import minkowski_reduce
from scipy.spatial.transform import Rotation
from transformers import PreTrainedModel

from ..crystal.host_crystal import diffraction_peaks, host_of, host_translations, integer_basis
from ..crystal.symmetry import OCTAHEDRAL_OPERATIONS, atoms_of, is_cubic, symmetry_image
from ..data.load.batching import Structure
from ..errors import InputError
from ..feature_extraction_adapt import ADAPTFeatureExtractor
from ..modeling_adapt import forces_of
from ..simulation.prediction import structure_of
from .metrics import as_float64

Forces = Callable[[Atoms], np.ndarray]  # of a structure of N atoms, (N, 3) in eV/Å
Image = tuple[Atoms, Callable[[np.ndarray], np.ndarray]]  # a structure, and what becomes of the forces on it
Images = Callable[[Atoms, np.random.Generator], Iterator[Image]]

ROTATIONS = 4  # random ones of each structure
LONGEST_SHIFT = 10.0  # Å
SAME_SITE = 0.1  # Å; sites that a symmetry brings closer than that are the same
SAME_METRIC = 1e-3  # relative; a cell that is more strained has a lower symmetry

_MATRICES = np.array(list(product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
_UNIMODULAR = _MATRICES[np.abs(np.rint(np.linalg.det(_MATRICES))) == 1]


def symmetry_error(forces: Forces, structures: Sequence[Atoms], images: Images) -> float | None:
    """
    RMS over atoms, components and images, in eV/Å, of the forces on an image of a structure minus what the forces on
    the structure say that they are.

    Args:
        images (`Images`):
            One of `octahedral`, `rotated`, `shifted`, `reordered` and `repeated`; what is random in it is the same at
            every call.

    Returns:
        `float` or `None`: None where there is no image.
    """
    squares, number = 0.0, 0
    for index, atoms in enumerate(structures):
        before = forces(atoms)
        for image, follow in images(atoms, np.random.default_rng(index)):
            error = forces(image) - follow(before)
            squares, number = squares + float(np.square(error).sum()), number + error.size
    return (squares / number) ** 0.5 if number else None


def octahedral(atoms: Atoms, rng: np.random.Generator) -> Iterator[Image]:
    """The 47 operations of Oh besides the identity, with wrapping; none where the cell is no cube."""
    if is_cubic(atoms.cell.array, atoms.pbc):
        for operation in OCTAHEDRAL_OPERATIONS[1:]:
            yield _turned(atoms, operation)


def rotated(atoms: Atoms, rng: np.random.Generator) -> Iterator[Image]:
    """`ROTATIONS` random rotations of atoms and cell."""
    for operation in Rotation.random(ROTATIONS, rng).as_matrix():
        yield _turned(atoms, operation)


def shifted(atoms: Atoms, rng: np.random.Generator) -> Iterator[Image]:
    """A random shift of all atoms, and wrapping."""
    image = _copy(atoms)
    image.positions += rng.uniform(-LONGEST_SHIFT, LONGEST_SHIFT, 3)
    image.wrap()
    yield image, lambda forces: forces


def reordered(atoms: Atoms, rng: np.random.Generator) -> Iterator[Image]:
    """Another order of the atoms."""
    order = rng.permutation(len(atoms))
    yield _copy(atoms)[order], lambda forces: forces[order]


def repeated(atoms: Atoms, rng: np.random.Generator) -> Iterator[Image]:
    """The same crystal in a cell written twice; none where the first direction is not periodic."""
    if atoms.pbc[0]:
        yield _copy(atoms) * (2, 1, 1), lambda forces: np.concatenate([forces, forces])


def _turned(atoms: Atoms, operation: np.ndarray) -> Image:
    image = symmetry_image(structure_of(atoms), operation)
    turned = Atoms(atoms.numbers, image["positions"], cell=image["cell"], pbc=atoms.pbc)
    return turned, lambda values: values @ operation if values.ndim == 2 else values  # energies stay


def _copy(atoms: Atoms) -> Atoms:
    """Without the arrays and the calculator that came along."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def octahedral_error(
    model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor, structures: Sequence[Structure], count: int = 47
) -> float | None:
    """
    RMS of F(S x) - S F(x) in eV/Å over atoms, components and `count` of the 47 operations of Oh besides the identity;
    of the energy per atom in eV for a model that gives no forces. The cell is mapped onto itself.

    Returns:
        `float` or `None`: None where a cell is no cube.
    """
    if not all(is_cubic(structure["cell"], structure["pbc"]) for structure in structures):
        return None
    operations = OCTAHEDRAL_OPERATIONS[np.linspace(1, 47, count).round().astype(int)]
    return _turned_error(model, feature_extractor, structures, operations)


def rotation_error(
    model: PreTrainedModel, feature_extractor: ADAPTFeatureExtractor, structures: Sequence[Structure], count: int = 8
) -> float:
    """As [`octahedral_error`], for `count` random rotations (the same at every call) that turn the cell as well."""
    operations = Rotation.random(count, np.random.default_rng(0)).as_matrix()
    return _turned_error(model, feature_extractor, structures, operations)


def _turned_error(
    model: PreTrainedModel,
    feature_extractor: ADAPTFeatureExtractor,
    structures: Sequence[Structure],
    operations: np.ndarray,
) -> float:
    def answer(atoms: Atoms) -> np.ndarray:
        """Forces (N, 3) in eV/Å, or the energy per atom (1,) in eV."""
        inputs = feature_extractor(atoms).to(model.device)
        if model.config.gives_forces:
            return as_float64(forces_of(model, **inputs).forces)[0]
        with torch.no_grad():
            return as_float64(model(**inputs).energy) / len(atoms)

    def images(atoms: Atoms, rng: np.random.Generator) -> Iterator[Image]:
        return (_turned(atoms, operation) for operation in operations)

    error = symmetry_error(answer, [atoms_of(structure) for structure in structures], images)
    assert error is not None  # there are operations
    return error


def perfect_crystal(atoms: Atoms) -> Atoms | None:
    """
    The host crystal of a supercell with point defects, in its cell. [`host_of`] knows the sites to about 0.01 Å, which
    in a stiff crystal is 0.1 eV/Å; they are therefore averaged over the space group.

    Returns:
        `Atoms` or `None`: None where `atoms` is no such supercell.
    """
    try:
        host = host_of(atoms)
    except InputError:
        return None
    fractional = host.cell.scaled_positions(host.positions)
    lattice = integer_basis(diffraction_peaks(host, fractional))
    _, unimodular = minkowski_reduce(lattice @ host.cell.reciprocal())
    indices = unimodular @ lattice
    cells = len(host_translations(lattice))
    size = len(host) // cells
    sites = fractional[:size] @ indices.T  # those of the first primitive cell; `host_of` repeats them in this order
    change = _averaged(sites, host.numbers[:size], indices @ host.cell.reciprocal()) - sites
    fractional += np.tile(change @ np.linalg.inv(indices).T, (cells, 1))
    return Atoms(host.numbers, scaled_positions=fractional, cell=host.cell, pbc=True)


def _averaged(sites: np.ndarray, numbers: np.ndarray, reciprocal: np.ndarray) -> np.ndarray:
    """
    Mean of sites (S, 3) over their images, each shifted so that it has the same centre.

    Args:
        sites (`np.ndarray` of shape `(S, 3)`): In fractional coordinates of a primitive cell.
        reciprocal (`np.ndarray` of shape `(3, 3)`):
            Its reduced reciprocal vectors as rows, so that rotations are matrices of -1, 0 and 1.
    """
    metric = reciprocal @ reciprocal.T
    turned = _UNIMODULAR @ metric @ _UNIMODULAR.transpose(0, 2, 1)
    rotations = _UNIMODULAR[np.abs(turned - metric).max(axis=(1, 2)) < SAME_METRIC * np.abs(metric).max()]
    to_cartesian = np.linalg.inv(reciprocal).T  # x = u @ this
    total, count = np.zeros_like(sites), 0
    for rotation in rotations:
        image = sites @ rotation.T
        for target in np.flatnonzero(numbers == numbers[0]):
            apart = image + (sites[target] - image[0]) - sites[:, None]  # [site, image]
            apart -= np.rint(apart)
            distances = np.linalg.norm(apart @ to_cartesian, axis=2)
            match = distances.argmin(axis=1)
            rows = np.arange(len(sites))
            # The first site has a noise of its own, so the images may be off by twice as much before centring.
            fits = distances[rows, match].max() < 2 * SAME_SITE and np.array_equal(np.sort(match), rows)
            if fits and np.array_equal(numbers[match], numbers):
                moved = apart[rows, match]
                total, count = total + moved - moved.mean(axis=0), count + 1
    return sites + total / count
