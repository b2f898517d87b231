"""The perfect crystal behind a structure with point defects, found from the structure itself.

Nothing about the crystal is assumed: not its lattice, orientation, elements or origin. In fractional coordinates of
the supercell, diffraction peaks of a host with translations t lie at the integer vectors h with integer h . t, however
the cell is strained; a few defects and thermal motion weaken the peaks and put none elsewhere. The peaks thus give the
translations, and atoms laid on top of each other by these give the sites.
"""

import numpy as np
from ase import Atoms
from ase.geometry.minkowski_reduction import minkowski_reduce

from ..errors import InputError
from .minimum_image import require_cell

LARGEST_DEFECT_SHARE = 0.25  # of the sites; with more defects than that a structure is no crystal with point defects
_VACUUM = 6.0  # Å; a wider gap between planes of atoms makes a slab, whose surface atoms would be taken for defects
_SHARPNESS = 1.5  # largest scattering vector (cycles), in units of the inverse cube root of the volume of an atom
_PEAK = 0.1  # intensity relative to atoms all in phase; random positions of N atoms reach about 10 / N
MAJOR_ELEMENT = 0.1  # share of the atoms; rarer elements are defects and have no peaks of their own
_SITE_RADIUS = 0.3  # of the cube root of the volume of an atom: how far an atom that tells where its site is may be


def host_of(atoms: Atoms) -> Atoms:
    """The perfect crystal in the cell and orientation of a supercell with point defects, at its origin.

    Sites are the mean places of the atoms that repeat by the translations of the crystal, with the element that most
    of these atoms have. Rigid shifts, wrapping, strain, thermal noise and relaxation do not matter; the defects must
    be few, and the supercell at least four primitive cells, better tens.

    Args:
        atoms (`Atoms`): Periodic in all directions.

    Raises:
        [`InputError`]: A structure that is no supercell of a crystal with point defects, among them molecules,
            amorphous structures and slabs (more than 6 Å of vacuum); the remedy is to give the host.
    """
    if not (atoms.pbc.all() and len(atoms)):
        raise _unknown("it is not periodic in all directions" if len(atoms) else "it has no atoms")
    require_cell(atoms.cell.array)
    fractional = atoms.cell.scaled_positions(atoms.positions)
    peaks = diffraction_peaks(atoms, fractional)
    lattice = integer_basis(peaks)
    cells = 0 if len(lattice) < 3 else int(lattice.diagonal().prod())
    if cells < 4:
        raise _unknown("its atoms do not repeat within the cell")
    # Short peak vectors: planes far apart, so that rounding finds the nearest image of anything inside a site.
    _, unimodular = minkowski_reduce(lattice @ atoms.cell.reciprocal())
    indices = unimodular @ lattice
    inverse = np.linalg.inv(indices)
    sites, numbers = _sites(fractional @ indices.T, inverse.T @ atoms.cell.array, atoms.numbers, cells)
    if abs(len(sites) * cells - len(atoms)) > LARGEST_DEFECT_SHARE * len(atoms):
        raise _unknown("too few of its atoms repeat within the cell")
    scaled = (host_translations(lattice)[:, None, :] + sites @ inverse.T).reshape(-1, 3)
    scaled -= np.floor(scaled + 0.02)  # a site at the origin stays there, whatever the noise
    host = Atoms(np.tile(numbers, cells), scaled_positions=scaled, cell=atoms.cell, pbc=True)
    _refuse_vacuum(host, scaled)
    return host


def _unknown(why: str) -> InputError:
    return InputError(f"no host crystal found: {why}; give the perfect crystal in the same cell as host")


def diffraction_peaks(atoms: Atoms, fractional: np.ndarray) -> np.ndarray:
    """(P, 3) integer indices h of the diffraction peaks of any major element, one of each pair h and -h."""
    longest = _SHARPNESS * (len(atoms) / atoms.cell.volume) ** (1 / 3)
    reach = np.floor(longest * atoms.cell.lengths()).astype(int)
    axes = [np.arange(-reach[0], reach[0] + 1), np.arange(-reach[1], reach[1] + 1), np.arange(reach[2] + 1)]
    intensity = np.zeros([len(axis) for axis in axes])
    elements, counts = np.unique(atoms.numbers, return_counts=True)
    for element in elements[counts >= MAJOR_ELEMENT * len(atoms)]:
        coordinates = fractional[atoms.numbers == element]
        waves = [np.exp(2j * np.pi * np.outer(axis, coordinates[:, i])) for i, axis in enumerate(axes)]
        for plane, wave in zip(intensity, waves[0], strict=True):  # plane by plane: memory stays small
            amplitude = (waves[1] * wave) @ waves[2].T / len(coordinates)
            np.maximum(plane, np.abs(amplitude) ** 2, out=plane)
    indices = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[intensity > _PEAK]
    lengths = np.linalg.norm(indices @ atoms.cell.reciprocal(), axis=1)
    return indices[(lengths <= longest) & (lengths > 0)]


def integer_basis(vectors: np.ndarray) -> np.ndarray:
    """Upper triangular integer basis (rank, 3) of the lattice that integer vectors (V, 3) generate, by Euclid."""
    rows = vectors.copy()
    basis: list[np.ndarray] = []
    for column in range(3):
        while np.count_nonzero(rows[:, column]) > 1:
            pivot = np.where(rows[:, column] == 0, np.iinfo(rows.dtype).max, np.abs(rows[:, column])).argmin()
            quotients = rows[:, column] // rows[pivot, column]
            quotients[pivot] = 0
            rows = np.unique(rows - quotients[:, None] * rows[pivot], axis=0)
        chosen = rows[:, column] != 0
        basis.extend(row * np.sign(row[column]) for row in rows[chosen])
        rows = rows[~chosen]
    return np.array(basis)


def host_translations(lattice: np.ndarray) -> np.ndarray:
    """(T, 3) fractional translations t of the crystal that differ within the cell, the zero one first.

    Args:
        lattice (`np.ndarray` of shape `(3, 3)`): Triangular basis of its peaks, see [`integer_basis`].
    """
    steps = np.stack(np.meshgrid(*map(np.arange, lattice.diagonal()), indexing="ij"), axis=-1).reshape(-1, 3)
    return steps @ np.linalg.inv(lattice).T


def _sites(
    folded: np.ndarray, primitive: np.ndarray, numbers: np.ndarray, cells: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sites of the primitive cell: fractional coordinates (S, 3) and elements (S,).

    Args:
        folded (`np.ndarray` of shape `(N, 3)`): Atoms in fractional coordinates of the primitive cell.
        primitive (`np.ndarray` of shape `(3, 3)`): Rows are its vectors in Å.
        numbers (`np.ndarray` of shape `(N,)`): Elements.
        cells (`int`): Primitive cells in the supercell; a site is where at least half as many atoms meet.
    """
    radius = _SITE_RADIUS * (abs(np.linalg.det(primitive)) * cells / len(folded)) ** (1 / 3)
    free = np.ones(len(folded), dtype=bool)
    sites, elements = [], []
    for seed in range(len(folded)):
        if not free[seed]:
            continue
        centre = folded[seed]
        for _ in range(4):  # the seed itself may be far from its site
            apart = folded - centre
            apart -= np.rint(apart)
            members = free & (np.linalg.norm(apart @ primitive, axis=1) < radius)
            centre = centre + apart[members].mean(axis=0) if members.any() else centre
        if members.sum() >= cells / 2:
            sites.append(centre)
            elements.append(np.bincount(numbers[members]).argmax())
            free &= ~members
    return np.reshape(sites, (-1, 3)), np.array(elements, dtype=int)


def _refuse_vacuum(host: Atoms, scaled: np.ndarray) -> None:
    planes = np.sort(scaled % 1.0, axis=0)
    gaps = np.diff(planes, axis=0, append=planes[:1] + 1.0).max(axis=0)
    widths = gaps / np.linalg.norm(host.cell.reciprocal(), axis=1)
    if widths.max() > _VACUUM:
        raise _unknown(f"there are {widths.max():.1f} Å of vacuum along cell vector {'abc'[widths.argmax()]}")
