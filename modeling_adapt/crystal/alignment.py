"""How the crystal of a training split lies, for models that read coordinates, and how a structure is laid alike.

Such a model knows a crystal only where its training split had it: at one origin, in one orientation, written in one
way. Rotations, shifts and wrapping change no physics, so a structure is brought there first. Diffraction peaks of the
host say where its crystal is, up to a translation of the crystal; the place of the defect decides among these.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from ..errors import InputError
from ..neighbours_adapt import cell_fault
from .host_crystal import MAJOR_ELEMENT, diffraction_peaks, host_of, host_translations, integer_basis
from .symmetry import OCTAHEDRAL_OPERATIONS, atoms_of

SAME_CELL = 1e-3  # Å; how far cell vectors of one split may differ
LARGEST_STRAIN = 0.02  # as the tolerance of the trained region for edges; shear of a degree is as much
CONCENTRATED = 0.9  # resultant length of the peaks' phases over the split, 1 where all crystals have one origin
SAME_HOST = 0.5  # of the trained amplitude of every peak
SAME_STRUCTURE = 1.0  # Å; atoms that moved less since the last look are still the same structure
_PEAKS_TO_COMBINE = 40
_PLACES = 1000  # of defects that are compared with each other
_PLACE_SHARPNESS = 10.0  # a defect counts as near within about 1 / sqrt(10) radian, 0.8 Å in a cell of 16 Å
_SEAM = 0.382  # of the gap below a lattice plane; interstitial sites are at simple fractions
# Fractions that no symmetry relates: where defects sit symmetrically, one of several equal choices must be the best.
_UNLIKE = np.array([0.013, 0.007, 0.019])
_FIRST_ATOM = 1e-2  # weight of the first atom, in electrons: it decides only where no defect does
# Other orders and signs of three cell vectors: the given ones first, then those that keep the hand.
_RELABELLINGS = np.array(sorted(OCTAHEDRAL_OPERATIONS, key=lambda one: (-np.linalg.det(one).round(), -one.trace())))


class Orientation(NamedTuple):
    """
    How the cell of a structure lies in the trained one.

    Args:
        rotation (`np.ndarray` of shape `(3, 3)`):
            Orthogonal; row vectors of the aligned structure times it are those of the structure.
        cell (`np.ndarray` of shape `(3, 3)`):
            Cell vectors of the structure in Å, in the order and with the signs of the trained ones.
        correlation (`np.ndarray` of shape `(3,)`):
            Complex; its phases are those of the peaks against the trained ones, its absolute values the amplitudes, 1
            as in training.
    """

    rotation: np.ndarray
    cell: np.ndarray
    correlation: np.ndarray

    @property
    def has_host(self) -> bool:
        return bool((np.abs(self.correlation) >= SAME_HOST).all())


@dataclass(frozen=True)
class TrainedAlignment:
    """
    Where the crystal of a training split is.

    Args:
        cell (`tuple[tuple[float, ...], ...]`): The cell vectors in Å, as rows.
        peaks (`tuple[tuple[int, ...], ...]`):
            Three integer vectors h, diffraction peaks that generate the reciprocal lattice of the host.
        elements (`tuple[str, ...]`):
            Of the host, E symbols; in a compound each has phases of its own, as an inverted crystal may scatter like
            the trained one while its elements have changed places.
        phases (`tuple[tuple[float, ...], ...]` of shape `(E, 3)`):
            Mean phase in radians of F(h) = sum_j exp(2 pi i h . s_j) over atoms at fractional s.
        amplitudes (`tuple[tuple[float, ...], ...]` of shape `(E, 3)`): Mean of |F(h)| per atom of the element.
        electrons (`float`): Of the host; fewer make a defect a hole in the electron density, more a heap.
        defect (`tuple[float, ...]` of shape `(3,)`): Fractional coordinates where the training split had most defects.
        seam (`tuple[float, ...]` of shape `(3,)`):
            Fractional coordinates where training coordinates begin; they end one cell vector further.
    """

    cell: tuple[tuple[float, ...], ...]
    peaks: tuple[tuple[int, ...], ...]
    elements: tuple[str, ...]
    phases: tuple[tuple[float, ...], ...]
    amplitudes: tuple[tuple[float, ...], ...]
    electrons: float
    defect: tuple[float, ...]
    seam: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {field.name: _lists(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainedAlignment":
        """The inverse of `to_dict`. Raises `ValueError` or `TypeError` where a value is no such as training writes."""
        if missing := [field.name for field in fields(cls) if field.name not in values]:
            raise ValueError(f"the alignment lacks {', '.join(missing)}")
        elements = tuple(map(str, values["elements"]))
        return cls(
            cell=_matrix(values["cell"], 3),
            peaks=tuple(tuple(map(int, row)) for row in _matrix(values["peaks"], 3)),
            elements=elements,
            phases=_matrix(values["phases"], len(elements)),
            amplitudes=_matrix(values["amplitudes"], len(elements)),
            electrons=float(values["electrons"]),
            defect=_matrix([values["defect"]], 1)[0],
            seam=_matrix([values["seam"]], 1)[0],
        )

    @cached_property
    def _reference(self) -> np.ndarray:
        """(E, 3) complex: the trained F(h) per atom."""
        return np.array(self.amplitudes) * np.exp(1j * np.array(self.phases))

    @cached_property
    def _translations(self) -> np.ndarray:
        return host_translations(integer_basis(np.array(self.peaks)))

    def orientation_of(self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray) -> Orientation | None:
        """
        The rotation that takes the trained cell to `cell`; the vectors of `cell` may come in another order, or point
        the other way, where the cell or the host does not fit as it is written.

        Returns:
            [`Orientation`] or `None`: The first that has the trained host; without one, that with the strongest peaks;
            None where the cell is another one by more than `LARGEST_STRAIN`.
        """
        inverse, best = np.linalg.inv(self.cell), None
        for relabelling in _RELABELLINGS:
            relabelled = relabelling @ cell
            left, stretches, right = np.linalg.svd(inverse @ relabelled)
            if np.abs(stretches - 1).max() > LARGEST_STRAIN:
                continue
            scaled = positions @ np.linalg.inv(relabelled)
            found = Orientation(left @ right, relabelled, self._correlation(numbers, scaled))
            if found.has_host:
                return found
            if best is None or np.abs(found.correlation).min() > np.abs(best.correlation).min():
                best = found
        return best

    def _correlation(self, numbers: np.ndarray, scaled: np.ndarray) -> np.ndarray:
        factors = _structure_factors(numbers, scaled, self.peaks, self.elements)
        return (factors * self._reference.conj()).sum(axis=0) / np.square(self.amplitudes).sum(axis=0)

    def _fine_shift(self, correlation: np.ndarray) -> np.ndarray:
        """(3,) the fractional shift that brings the peaks in phase with the trained ones."""
        return np.linalg.solve(np.array(self.peaks), -np.angle(correlation) / (2 * np.pi))

    def _place(self, numbers: np.ndarray, scaled: np.ndarray) -> np.ndarray:
        """`scaled` (N, 3) after the translation of the host that brings the defect nearest to the trained place."""
        density = _defect_density(numbers, scaled, self.electrons)
        density = density * np.exp(-2j * np.pi * (np.array(self.defect) + _UNLIKE))
        density += _FIRST_ATOM * np.exp(2j * np.pi * (scaled[0] + 10 * _UNLIKE))
        scores = (np.exp(2j * np.pi * self._translations) * density).real.sum(axis=1)
        placed = scaled + self._translations[scores.argmax()]
        return placed - np.floor(placed - np.array(self.seam))


@dataclass
class _Seen:
    """A structure as it was last looked at: which it is, and where its atoms were, fractional and aligned."""

    numbers: np.ndarray
    cell: np.ndarray
    orientation: Orientation
    scaled: np.ndarray


class Aligner:
    """
    Lays structures as the crystal of a training split lay.

    Rotation, translation of the host and the image of each atom are discrete choices. They are made when a structure
    is new and kept while it moves, or forces would jump in the middle of a relaxation: a structure of the same atoms
    in the same cell is the same as long as no atom moves by more than `SAME_STRUCTURE` between two calls. Who goes on
    to another structure says so with `forget`, as the choices for one are no business of the next.

    Args:
        alignment ([`TrainedAlignment`], *optional*): Without one, structures stay as they are.
    """

    def __init__(self, alignment: TrainedAlignment | None) -> None:
        self.alignment = alignment
        self._seen: dict[int, _Seen] = {}

    @classmethod
    def of(cls, training_domain: Mapping[str, Any] | None) -> "Aligner":
        """That of the `training_domain` of a configuration."""
        values = (training_domain or {}).get("frame")  # its name in checkpoints
        try:
            return cls(None if values is None else TrainedAlignment.from_dict(values))
        except (TypeError, ValueError) as error:
            raise InputError(f"the checkpoint's training_domain is damaged: {error}") from error

    def __call__(self, structures: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], np.ndarray]:
        """
        Args:
            structures (`Sequence[Mapping[str, Any]]`):
                S mappings as [`ADAPTFeatureExtractor`] takes them. The place in the list tells which structure of an
                earlier call one continues.

        Returns:
            `tuple[list[dict[str, Any]], np.ndarray]`: The structures aligned, those with another cell or host as they
            are, and rotations (S, 3, 3): predicted forces (N, 3) times these are the forces of the structures as they
            were given.
        """
        mapped = [self._map(index, structure) for index, structure in enumerate(structures)]
        rotations = np.array([rotation for _, rotation in mapped]).reshape(-1, 3, 3)
        return [structure for structure, _ in mapped], rotations

    def forget(self) -> None:
        """What is seen next is new."""
        self._seen.clear()

    def _map(self, index: int, structure: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        numbers, positions = np.asarray(structure["atomic_numbers"]), np.asarray(structure["positions"], np.float64)
        cell = None if structure.get("cell") is None else np.asarray(structure["cell"], np.float64)
        placed = None
        if self.alignment is not None and _readable(numbers, positions, cell, structure.get("pbc", True)):
            assert cell is not None
            placed = self._followed(index, numbers, positions, cell) or self._found(numbers, positions, cell)
        if placed is None:
            self._seen.pop(index, None)
            return dict(structure), np.eye(3)
        self._seen[index] = placed
        turned = placed.orientation.cell @ placed.orientation.rotation.T
        return dict(structure) | {"positions": placed.scaled @ turned, "cell": turned}, placed.orientation.rotation

    def _found(self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray) -> _Seen | None:
        """A structure that was not seen before."""
        alignment = self.alignment
        assert alignment is not None
        orientation = alignment.orientation_of(numbers, positions, cell)
        if orientation is None or not orientation.has_host:
            return None
        scaled = positions @ np.linalg.inv(orientation.cell) + alignment._fine_shift(orientation.correlation)
        return _Seen(numbers.copy(), cell.copy(), orientation, alignment._place(numbers, scaled))

    def _followed(self, index: int, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray) -> _Seen | None:
        """The structure seen last, moved on: the same choices, with the crystal brought in phase anew."""
        alignment, last = self.alignment, self._seen.get(index)
        if alignment is None or last is None:
            return None
        if not (np.array_equal(last.numbers, numbers) and np.array_equal(last.cell, cell)):
            return None
        scaled = positions @ np.linalg.inv(last.orientation.cell)
        # The phase of a crystal tells its shift up to translations of the host, so shift it as the last one first.
        moved = scaled - last.scaled
        common = moved[0] + np.angle(np.exp(2j * np.pi * (moved - moved[0])).mean(axis=0)) / (2 * np.pi)
        scaled = scaled - common
        correlation = alignment._correlation(numbers, scaled)
        if not (np.abs(correlation) >= SAME_HOST).all():
            return None
        scaled = scaled + alignment._fine_shift(correlation)
        scaled -= np.rint(scaled - last.scaled)
        if np.linalg.norm((scaled - last.scaled) @ last.orientation.cell, axis=1).max() > SAME_STRUCTURE:
            return None
        return _Seen(numbers, cell, last.orientation, scaled)


def fit_alignment(rows: Iterable[dict[str, Any]]) -> TrainedAlignment | None:
    """
    How the crystal of a split (`STRUCTURE_FEATURES`, read twice) lies. None where nobody can say: other cells than
    one, a direction that is not periodic, no crystal in its first structure, or crystals at various origins.
    """
    first = next((atoms_of(row) for row in rows), None)
    crystal = None if first is None else _crystal_of(first)
    if first is None or crystal is None:
        return None
    host, peaks = crystal
    electrons = float(host.numbers.sum())
    numbers, counts = np.unique(host.numbers, return_counts=True)
    elements = tuple(chemical_symbols[number] for number in numbers[counts >= MAJOR_ELEMENT * len(host)])
    factors, densities = [], []
    for row in rows:
        atoms = atoms_of(row)
        if not atoms.pbc.all() or np.abs(atoms.cell.array - first.cell.array).max() > SAME_CELL:
            return None
        scaled = _scaled(atoms)
        factors.append(_structure_factors(atoms.numbers, scaled, peaks, elements))
        densities.append(_defect_density(atoms.numbers, scaled, electrons))
    mean, strength = np.mean(factors, axis=0), np.mean(np.abs(factors), axis=0)
    if (np.abs(mean).sum(axis=0) < CONCENTRATED * strength.sum(axis=0)).any():
        return None
    return TrainedAlignment(
        cell=_matrix(first.cell.array, 3),
        peaks=tuple(tuple(map(int, peak)) for peak in peaks),
        elements=elements,
        phases=_matrix(np.angle(mean), len(elements)),
        amplitudes=_matrix(strength, len(elements)),
        electrons=electrons,
        defect=_matrix([_densest_place(np.array(densities))], 1)[0],
        seam=_matrix([_seam(_scaled(host), rows)], 1)[0],
    )


def _crystal_of(atoms: Atoms) -> tuple[Atoms, np.ndarray] | None:
    """
    The host and three peaks (3, 3) that generate all others; None where there is no host. Of all such triples the
    shortest: the phase of a short one suffers least from vibrations and strain.
    """
    try:
        host = host_of(atoms)
    except InputError:
        return None
    peaks = diffraction_peaks(host, _scaled(host))
    lengths = np.linalg.norm(peaks @ host.cell.reciprocal(), axis=1)
    shortest = np.argsort(lengths, kind="stable")[:_PEAKS_TO_COMBINE]
    triples = np.array(list(combinations(shortest, 3)))
    volumes = np.abs(np.rint(np.linalg.det(peaks[triples])))
    fitting = triples[volumes == integer_basis(peaks).diagonal().prod()]
    if not len(fitting):
        return None
    return host, peaks[fitting[np.square(lengths[fitting]).sum(axis=1).argmin()]]


def _structure_factors(
    numbers: np.ndarray, scaled: np.ndarray, peaks: Sequence[Sequence[int]] | np.ndarray, elements: Sequence[str]
) -> np.ndarray:
    """(E, 3) complex: mean of exp(2 pi i h . s) over the atoms of each element, for three peaks h."""
    waves = np.exp(2j * np.pi * scaled @ np.transpose(peaks))
    masks = [numbers == atomic_numbers[symbol] for symbol in elements]
    return np.array([waves[mask].mean(axis=0) if mask.any() else np.zeros(3) for mask in masks])


def _defect_density(numbers: np.ndarray, scaled: np.ndarray, electrons: float) -> np.ndarray:
    """
    (3,) complex: the longest wave of the electron density along each cell vector. The host has none, so its phase is
    where the defect is; `electrons` are those of the host, as what a vacancy adds is negative.
    """
    sign = -1.0 if numbers.sum() < electrons else 1.0
    return sign * (numbers @ np.exp(2j * np.pi * scaled))


def _densest_place(densities: np.ndarray) -> np.ndarray:
    """(3,) fractional: where most defects of (R, 3) densities are, within about a bond, at one of the defects."""
    clear = np.abs(densities).min(axis=1)
    places = np.exp(1j * np.angle(densities[clear >= np.median(clear)]))
    places = places[:: -(-len(places) // _PLACES)]
    closeness = (places @ places.conj().T).real - 3  # sum over the axes of cos - 1
    densest = np.exp(_PLACE_SHARPNESS * closeness).sum(axis=1).argmax()
    return np.angle(places[densest]) / (2 * np.pi)


def _seam(host: np.ndarray, rows: Iterable[dict[str, Any]]) -> np.ndarray:
    """(3,) between two planes of the host (H, 3 fractional), and so that most training coordinates lie beyond it."""
    seams: list[np.ndarray] = []
    for axis in range(3):
        planes = np.sort(host[:, axis] % 1.0)
        gaps = np.diff(planes, prepend=planes[-1] - 1.0)
        wide = gaps > gaps.max() / 2
        below = planes[wide] - _SEAM * gaps[wide]
        seams.append(np.sort(np.concatenate([below - 1, below, below + 1])))
    inside = [np.zeros(len(seam)) for seam in seams]
    for row in rows:
        coordinates = _scaled(atoms_of(row))
        for axis, seam in enumerate(seams):
            beyond = np.searchsorted(np.sort(coordinates[:, axis]), [seam, seam + 1])
            inside[axis] += beyond[1] - beyond[0]
    return np.array([seam[count.argmax()] for seam, count in zip(seams, inside, strict=True)])


def _scaled(atoms: Atoms) -> np.ndarray:
    return atoms.positions @ np.linalg.inv(atoms.cell.array)


def _readable(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray | None, pbc: Any) -> bool:
    """Whether these can be mapped at all; what cannot is left to the feature extractor, which says what is wrong."""
    if cell is None or cell.shape != (3, 3) or not len(numbers) or positions.shape != (len(numbers), 3):
        return False
    return bool(np.isfinite(positions).all()) and bool(np.all(pbc)) and cell_fault(cell) is None


def _matrix(values: Any, rows: int) -> tuple[tuple[float, ...], ...]:
    """`values` (rows, 3) as tuples, which compare as a whole."""
    matrix = np.array(values, dtype=np.float64)
    if matrix.shape != (rows, 3) or not np.isfinite(matrix).all():
        raise ValueError(f"numbers of shape {matrix.shape} instead of ({rows}, 3)")
    return tuple(tuple(map(float, row)) for row in matrix)


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


__all__ = ["Aligner", "TrainedAlignment", "fit_alignment"]
