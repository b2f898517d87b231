"""The trained region: what the training structures looked like, and whether a structure still looks like them.

A network answers anything with a number. These few ranges, fitted on the training split and stored in the checkpoint
(`config.training_domain`), are what lets a relaxation say that its answer is no longer backed by any training data.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from ..errors import InputError
from .alignment import SAME_HOST, TrainedAlignment, fit_alignment
from .contacts import CONTACT_CUTOFF, closest_contacts
from .minimum_image import largest_displacement
from .symmetry import atoms_of

CLOSER_TOLERANCE = 0.05  # an atom may come 5 % closer to another than in training ...
EXCESS_TOLERANCE = 0.10  # ... move, or be pushed, 10 % more ...
CELL_TOLERANCE = 0.02  # ... in a cell whose edges and volume per atom are 2 % outside the trained range ...
ANGLE_TOLERANCE = 1.0  # ... and its angles 1 degree

Range = tuple[float, float]


@dataclass(frozen=True)
class TrainingDomain:
    """
    Ranges of a training split.

    Args:
        elements (`tuple[str, ...]`): Symbols.
        periodicity (`tuple[str, ...]`):
            The periodic directions that occurred, "abc" for bulk, "ab" for a slab, "" for a molecule.
        number_of_atoms (`tuple[int, int]`): Smallest and largest.
        closest_distances (`Mapping[str, float]`):
            Smallest distance in Å of each pair of elements, as `{"C-Si": 1.71}`, periodic images included; a pair that
            never came within `CONTACT_CUTOFF` is not there.
        largest_force (`float`): Largest force on any atom in eV/Å.
        largest_displacement (`float`, *optional*):
            Largest minimum-image displacement in Å of any atom from the first frame of its trajectory; None when no
            trajectory has more than one frame.
        volume_per_atom (`Range`, *optional*):
            Smallest and largest in Å^3, over structures periodic in three directions; None without any.
        cell_edges (`Range`, *optional*): Shortest and longest periodic edge of any cell in Å; None without any.
        cell_angles (`Range`, *optional*):
            Smallest and largest angle between periodic edges of any cell in degrees; None without any, and in
            checkpoints that were written before it was looked at.
        local (`bool`, defaults to `False`):
            The forces on an atom depend on its neighbourhood only, so the number of atoms and the edges of the cell
            are not judged.
        alignment ([`TrainedAlignment`], *optional*):
            Of a model that reads coordinates, how the host crystal lies; None of others, where the crystals of the
            split lie differently, and in older checkpoints. Its name in checkpoints is `frame`.
    """

    elements: tuple[str, ...]
    periodicity: tuple[str, ...]
    number_of_atoms: tuple[int, int]
    closest_distances: Mapping[str, float]
    largest_force: float
    largest_displacement: float | None
    volume_per_atom: Range | None
    cell_edges: Range | None
    cell_angles: Range | None = None
    local: bool = False
    alignment: TrainedAlignment | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        del values["alignment"]
        return values | {"frame": None if self.alignment is None else self.alignment.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingDomain":
        """The inverse of `to_dict`; other keys are left alone. Raises [`InputError`] where one is missing or no such
        value as training writes."""
        names = [field.name for field in fields(cls) if field.default is MISSING]
        if missing := [name for name in names if name not in values]:
            raise InputError(f"the checkpoint's training_domain lacks {', '.join(missing)}; train or convert it again")
        try:
            return cls(
                elements=tuple(map(str, values["elements"])),
                periodicity=tuple(map(str, values["periodicity"])),
                number_of_atoms=_pair(values["number_of_atoms"], int),
                closest_distances={str(pair): float(value) for pair, value in values["closest_distances"].items()},
                largest_force=float(values["largest_force"]),
                largest_displacement=_optional(values["largest_displacement"], float),
                volume_per_atom=_optional(values["volume_per_atom"], _pair),
                cell_edges=_optional(values["cell_edges"], _pair),
                cell_angles=_optional(values.get("cell_angles"), _pair),
                local=bool(values.get("local", False)),
                alignment=_optional(values.get("frame"), TrainedAlignment.from_dict),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the checkpoint's training_domain is damaged: {error}") from error

    def check(self, atoms: Atoms, start: Atoms | None = None, forces: np.ndarray | None = None) -> list[str]:
        """
        Says, in one line each, where `atoms` is outside the trained region; an empty list means nowhere.

        Args:
            atoms (`Atoms`): The structure.
            start (`Atoms`, *optional*): The structure that a relaxation began with, to judge how far atoms moved.
            forces (`np.ndarray` of shape `(N, 3)`, *optional*): Its forces in eV/Å.
        """
        return list(self.findings(atoms, start, forces).values())

    def findings(self, atoms: Atoms, start: Atoms | None = None, forces: np.ndarray | None = None) -> dict[str, str]:
        """As `check`, with the kind of each finding as its key, such as "distance"."""
        cell = self._check_cell(atoms)
        found = {
            "elements": self._check_elements(atoms),
            "number of atoms": self._check_number_of_atoms(atoms),
            "cell": cell,
            "host": self._check_host(atoms) if cell is None else None,
            "distance": self._check_distances(atoms),
            "displacement": self._check_displacement(start, atoms) if start is not None else None,
            "force": self._check_forces(atoms, forces) if forces is not None else None,
        }
        return {kind: line for kind, line in found.items() if line is not None}

    def _check_elements(self, atoms: Atoms) -> str | None:
        for index, symbol in enumerate(atoms.symbols):
            if symbol not in self.elements:
                return f"atom {index} is {symbol}; training had only {', '.join(self.elements)}"
        return None

    def _check_number_of_atoms(self, atoms: Atoms) -> str | None:
        low, high = self.number_of_atoms
        if self.local or low <= len(atoms) <= high:
            return None
        return f"{len(atoms)} atoms; training had {_interval(low, high)}"

    def _check_cell(self, atoms: Atoms) -> str | None:
        periodicity = _periodicity(atoms)
        if periodicity not in self.periodicity:
            seen = " or ".join(_describe_periodicity(value) for value in self.periodicity)
            return f"the structure is {_describe_periodicity(periodicity)}; training had structures {seen}"
        if self.cell_edges is not None and periodicity and not self.local:
            low, high = self.cell_edges
            for edge in atoms.cell.lengths()[atoms.pbc]:
                if not low * (1 - CELL_TOLERANCE) <= edge <= high * (1 + CELL_TOLERANCE):
                    return f"a cell edge of {edge:.3f} Å; training had {_interval(low, high, '.3f')} Å"
        if self.cell_angles is not None:
            low, high = self.cell_angles
            for angle in _angles(atoms):
                if not low - ANGLE_TOLERANCE <= angle <= high + ANGLE_TOLERANCE:
                    return f"a cell angle of {angle:.1f} degrees; training had {_interval(low, high, '.1f')} degrees"
        if self.volume_per_atom is not None and periodicity == "abc":
            low, high = self.volume_per_atom
            volume = atoms.get_volume() / len(atoms)
            if not low * (1 - CELL_TOLERANCE) <= volume <= high * (1 + CELL_TOLERANCE):
                return f"{volume:.2f} Å^3 per atom; training had {_interval(low, high, '.2f')} Å^3"
        return None

    def _check_host(self, atoms: Atoms) -> str | None:
        """A crystal that lies as the trained one, or can be laid so: see [`Aligner`]."""
        if self.alignment is None:
            return None
        found = self.alignment.orientation_of(atoms.numbers, atoms.positions, atoms.cell.array)
        if found is None:
            edges, trained = (
                ", ".join(f"{edge:.3f}" for edge in np.linalg.norm(cell, axis=1))
                for cell in (atoms.cell.array, self.alignment.cell)
            )
            return f"a cell with edges of {edges} Å; training had only one cell, with edges of {trained} Å"
        intensity = float(np.square(np.abs(found.correlation)).min())
        if not intensity < SAME_HOST**2:
            return None
        return f"the host crystal is not as in training: its diffraction peaks have {intensity:.0%} of the intensity"

    def _check_distances(self, atoms: Atoms) -> str | None:
        """The pair that is too close by the largest factor. Elements outside the training are another finding."""
        worst, line = 1.0 - CLOSER_TOLERANCE, None
        known = sorted(set(atoms.symbols) & set(self.elements))
        pairs = ("-".join(pair) for pair in combinations_with_replacement(known, 2))
        farthest = max((self.closest_distances.get(pair, CONTACT_CUTOFF) for pair in pairs), default=0.0)
        # Only what is too close counts, and few pairs are.
        for pair, contact in closest_contacts(atoms, farthest * worst).items():
            trained = self.closest_distances.get(pair, CONTACT_CUTOFF)
            if contact.distance / trained < worst and set(pair.split("-")) <= set(self.elements):
                worst = contact.distance / trained
                line = (
                    f"atoms {contact.first} and {contact.second} ({pair}) are {contact.distance:.2f} Å apart; "
                    f"training had none closer than {trained:.2f} Å"
                )
        return line

    def _check_displacement(self, start: Atoms, atoms: Atoms) -> str | None:
        if self.largest_displacement is None:
            return None
        moved = largest_displacement(start, atoms)
        if moved <= self.largest_displacement * (1 + EXCESS_TOLERANCE):
            return None
        return (
            f"an atom moved {moved:.2f} Å from the start; "
            f"in training none moved more than {self.largest_displacement:.2f} Å"
        )

    def _check_forces(self, atoms: Atoms, forces: np.ndarray) -> str | None:
        sizes = np.linalg.norm(forces, axis=1)
        atom = int(sizes.argmax())
        if sizes[atom] <= self.largest_force * (1 + EXCESS_TOLERANCE):
            return None
        return (
            f"{sizes[atom]:.2f} eV/Å on {atoms.symbols[atom]} (atom {atom}); "
            f"training had no force above {self.largest_force:.2f} eV/Å"
        )


def fit_domain(
    rows: Iterable[dict[str, Any]], *, local: bool = False, reads_coordinates: bool = False
) -> TrainingDomain:
    """
    Ranges of a split, in one pass over its rows (`STRUCTURE_FEATURES`); about 2 ms a structure of 216 atoms.

    Args:
        local (`bool`, defaults to `False`): The model judges an atom by its neighbourhood only.
        reads_coordinates (`bool`, defaults to `False`):
            The model depends on how the crystal lies, and is trained on the rows as they are; the alignment of the
            split, if it has one, takes two more passes.
    """
    elements: set[str] = set()
    periodicity: set[str] = set()
    closest_distances: dict[str, float] = {}
    numbers: list[int] = []
    edges: list[float] = []
    angles: list[float] = []
    volumes: list[float] = []
    moved: list[float] = []
    largest_force = 0.0
    first_frames: dict[str, Atoms] = {}

    for row in rows:
        atoms = atoms_of(row)
        elements.update(atoms.symbols)
        periodicity.add(_periodicity(atoms))
        numbers.append(len(atoms))
        edges.extend(atoms.cell.lengths()[atoms.pbc])
        angles.extend(_angles(atoms))
        if atoms.pbc.all():
            volumes.append(atoms.get_volume() / len(atoms))
        if row["forces"] is not None:
            largest_force = max(largest_force, float(np.linalg.norm(row["forces"], axis=1).max()))

        for pair, contact in closest_contacts(atoms).items():
            closest_distances[pair] = min(contact.distance, closest_distances.get(pair, CONTACT_CUTOFF))

        start = first_frames.setdefault(row["trajectory"], atoms) if row["trajectory"] else atoms
        if start is not atoms and np.array_equal(start.numbers, atoms.numbers):
            moved.append(largest_displacement(start, atoms))

    if not numbers:
        raise InputError("the training split is empty; there is no trained region to fit")
    return TrainingDomain(
        elements=tuple(sorted(elements, key=chemical_symbols.index)),
        periodicity=tuple(sorted(periodicity)),
        number_of_atoms=(min(numbers), max(numbers)),
        closest_distances=dict(sorted(closest_distances.items())),
        largest_force=largest_force,
        largest_displacement=max(moved, default=None),
        volume_per_atom=_range(volumes),
        cell_edges=_range(edges),
        cell_angles=_range(angles),
        local=local,
        alignment=fit_alignment(rows) if reads_coordinates else None,
    )


def _pair(values: Any, kind: Callable[[Any], Any] = float) -> tuple[Any, Any]:
    low, high = values
    return kind(low), kind(high)


def _optional(value: Any, read: Callable[[Any], Any]) -> Any:
    return None if value is None else read(value)


def _periodicity(atoms: Atoms) -> str:
    return "".join(axis for axis, periodic in zip("abc", atoms.pbc, strict=True) if periodic)


def _angles(atoms: Atoms) -> list[float]:
    """Between each two periodic edges, in degrees."""
    edges = [edge / np.linalg.norm(edge) for edge in atoms.cell.array[atoms.pbc]]
    return [float(np.degrees(np.arccos(np.clip(a @ b, -1, 1)))) for a, b in combinations(edges, 2)]


def _describe_periodicity(periodicity: str) -> str:
    return f"periodic along {', '.join(periodicity)}" if periodicity else "not periodic"


def _range(values: list[float]) -> Range | None:
    return (float(min(values)), float(max(values))) if values else None


def _interval(low: float, high: float, style: str = "") -> str:
    return f"{low:{style}}" if f"{low:{style}}" == f"{high:{style}}" else f"{low:{style}} to {high:{style}}"
