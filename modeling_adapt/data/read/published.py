"""The published ADAPT data: token matrices and labels in torch files, in parts that fit into memory.

`{"X": [(n, 13) or (n, 12)], "Y": [(n, 3)]}` for forces; for energies a tensor or list of (n, 12) and one of total
energies in eV. Columns: x, y, z (Å), the nine descriptors, and in column 13 the importance weight. Rows of zeros are
padding.

The format stores descriptors instead of elements, and no lattice. Elements are recovered from group and period; the
cell is cubic.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms

from ...crystal.minimum_image import shortest_images
from ...elements_adapt import DESCRIPTORS, SYMBOLS
from ...errors import InputError
from ...torch_files import StoredTensor, read_tensors, read_torch_layout, stored_tensor
from ..options import CELL_EDGE
from ..structures import structure_row
from .frames import LARGEST_STEP, file_state
from .site_search import SiteSearch, host_state

STRUCTURES_PER_PART = 1000

Progress = Callable[[int], Any]
_GROUP, _PERIOD = 3, 4  # columns


class PublishedStructures(NamedTuple):
    """Where the structures of a file lie, with one value in each list per structure; plain values, as JSON has them.

    Args:
        path (`str`): Of the file with the features, and with the forces where there are any.
        indices (`list[int]`): Their numbers in the file.
        features (`list[StoredTensor]`): Each (n, 12) or (n, 13).
        forces (`list[StoredTensor]`): Each (n, 3) in eV/Å; no values in an energy file.
        energies (`list[float | None]`): In eV; None where that is not known.
        trajectories (`list[str]`): Their names; no values before they are found.
    """

    path: str
    indices: list[int]
    features: list[StoredTensor]
    forces: list[StoredTensor]
    energies: list[float | None]
    trajectories: list[str]

    @property
    def sources(self) -> list[str]:
        """What rows call each of them."""
        return [f"{Path(self.path).name}#{index}" for index in self.indices]

    def some(self, numbers: Sequence[int]) -> "PublishedStructures":
        """Those with these numbers, counted in the lists."""
        lists: Any = ([values[number] for number in numbers] if values else [] for values in self[1:])
        return PublishedStructures(self.path, *lists)

    def pieces(self, size: int) -> Iterator["PublishedStructures"]:
        """All of them in order, at most `size` at a time."""
        for start in range(0, len(self.indices), size):
            yield self.some(range(start, min(start + size, len(self.indices))))


class Tokens(NamedTuple):
    """One structure.

    Args:
        numbers (`np.ndarray` of shape `(N,)`): Elements.
        positions (`np.ndarray` of shape `(N, 3)`): In Å, float64.
        weights (`np.ndarray` of shape `(N,)`, *optional*): Importance weights, or None where the file has none.
        is_atom (`np.ndarray` of shape `(rows,)`): Which rows of the matrix are atoms and not padding.
    """

    numbers: np.ndarray
    positions: np.ndarray
    weights: np.ndarray | None
    is_atom: np.ndarray

    def atoms(self, cell_edge: float) -> Atoms:
        """The structure in a cubic cell with an edge in Å."""
        return Atoms(numbers=self.numbers, positions=self.positions, cell=[cell_edge] * 3, pbc=True)

    @property
    def fingerprint(self) -> bytes:
        """Equal for equal elements at equal positions in float32."""
        positions = (self.positions + 0.0).astype(np.float32)  # + 0.0: no negative zeros
        return blake2b(self.numbers.tobytes() + positions.tobytes(), digest_size=16).digest()

    def foreign(self) -> tuple[np.ndarray, str]:
        """Which atoms (N,) are not of the most common element, and their symbols; its symbol if there are none."""
        host = np.bincount(self.numbers, minlength=1).argmax()
        foreign = np.not_equal(self.numbers, host)
        elements = np.unique(self.numbers[foreign]) if foreign.any() else [host]
        return foreign, "+".join(SYMBOLS[number] for number in elements)


def read_force_file(path: Path) -> PublishedStructures:
    """The structures of a force file; all shapes are checked."""
    content = read_torch_layout(path)
    if not isinstance(content, dict) or not {"X", "Y"} <= content.keys():
        raise InputError(f'{path}: not a published force file; expected a dict with "X" and "Y"')
    features, forces = _entries(content["X"], path, f"{path}: X"), _entries(content["Y"], path, f"{path}: Y")
    _require_shapes(features, path)
    _require_equally_many(len(features), len(forces), f"{path}: X", "Y")
    for index, (one, label) in enumerate(zip(features, forces, strict=True)):
        if label.shape != (one.shape[0], 3):
            raise InputError(
                f"{_where(path, index)}: forces of shape {label.shape} for {one.shape[0]} rows of features"
            )
    return PublishedStructures(str(path), list(range(len(features))), features, forces, [None] * len(features), [])


def read_energy_files(path: Path, energies: Path) -> PublishedStructures:
    """The structures of an energy file; all shapes are checked."""
    features = _entries(read_torch_layout(path), path, str(path))
    labels = _entries(read_torch_layout(energies), energies, str(energies))
    _require_shapes(features, path)
    _require_equally_many(len(features), len(labels), str(path), str(energies))
    if any(np.prod(label.shape, dtype=int) != 1 for label in labels):
        raise InputError(f"{energies}: expected one energy per structure")
    values: list[float | None] = [value.astype(np.float64).item() for value in read_tensors(energies, labels)]
    return PublishedStructures(str(path), list(range(len(features))), features, [], values, [])


def read_tokens(structures: PublishedStructures) -> Iterator[Tokens]:
    """The structures one by one.

    Raises:
        [`InputError`]: A descriptor that is no number, or an unknown element; naming file, frame and atom.
    """
    matrices = read_tensors(structures.path, structures.features)
    for index, matrix in zip(structures.indices, matrices, strict=True):
        yield _tokens(matrix.astype(np.float64), _where(Path(structures.path), index))


def _tokens(matrix: np.ndarray, where: str) -> Tokens:
    is_atom = np.any(matrix != 0, axis=1)
    tokens = matrix[is_atom]
    damaged = ~np.isfinite(tokens[:, _GROUP:12]).all(axis=1)
    if damaged.any():
        raise InputError(f"{where}: a descriptor of atom {int(np.argmax(damaged))} is not a finite number")
    weights = tokens[:, 12] if tokens.shape[1] == 13 else None
    return Tokens(atomic_numbers(tokens, where), tokens[:, :3], weights, is_atom)


def _element_table() -> np.ndarray:
    """(groups, periods) the element of a group and a period; 0 where there is none, -1 where there are several."""
    groups, periods = DESCRIPTORS[1:, :2].astype(int).T
    table = np.zeros((groups.max() + 1, periods.max() + 1), dtype=np.int64)
    for number, place in enumerate(zip(groups, periods, strict=True), start=1):
        table[place] = -1 if table[place] else number
    return table


_ELEMENTS = _element_table()


def atomic_numbers(tokens: np.ndarray, where: str = "structure") -> np.ndarray:
    """Elements of tokens (N, >= 12) from their group and period columns: (N,) int.

    Where several elements share them (lanthanides), the one whose other descriptors are nearest, relatively.
    """
    places = tokens[:, [_GROUP, _PERIOD]]
    inside = np.clip(places, 0, np.array(_ELEMENTS.shape) - 1).astype(int)
    numbers = np.where((inside == places).all(axis=1), _ELEMENTS[inside[:, 0], inside[:, 1]], 0)
    if not numbers.all():
        atom = int(np.argmin(numbers != 0))
        group, period = places[atom]
        raise InputError(f"{where}: atom {atom} has group {group:g} and period {period:g}, which is no known element")
    for atom in np.flatnonzero(numbers < 0).tolist():
        candidates = np.flatnonzero((DESCRIPTORS[:, :2] == places[atom]).all(axis=1))
        table = DESCRIPTORS[candidates]
        difference = np.abs(tokens[atom, 3:12] - table) / np.maximum(np.abs(table), 1.0)
        numbers[atom] = candidates[difference.sum(axis=1).argmin()]
    return numbers


def _entries(value: Any, path: Path, name: str) -> list[StoredTensor]:
    """One tensor per structure, of a list of tensors or of one with an axis more."""
    if isinstance(value, torch.Tensor) and value.ndim > 0:
        whole = stored_tensor(value, path)
        return [whole.part(number) for number in range(len(value))]
    if not isinstance(value, Sequence) or not all(isinstance(item, torch.Tensor) for item in value):
        raise InputError(f"{name}: expected a tensor or a list of tensors, not {type(value).__name__}")
    return [stored_tensor(item, path) for item in value]


def _require_equally_many(features: int, labels: int, name: str, label_name: str) -> None:
    if features != labels or features == 0:
        raise InputError(f"{name} has {features} structures, {label_name} has {labels}; expected equally many")


def _require_shapes(features: list[StoredTensor], path: Path) -> None:
    for index, (_, _, shape, _) in enumerate(features):
        if len(shape) != 2 or shape[1] not in (12, 13):
            raise InputError(f"{_where(path, index)}: features of shape {shape}; expected (atoms, 12) or (atoms, 13)")


def _where(path: Path, index: int) -> str:
    return f"{path.name}, frame {index}"


@dataclass(frozen=True)
class PublishedImport:
    """What there is to import, for `build_dataset`.

    Args:
        parts (`list[PublishedStructures]`): All structures in order, with their trajectories.
        plan (`Any`): What else decides the content of the rows, in plain values.
        make (`Callable[[PublishedStructures, dict[str, Any]], Iterator[dict[str, Any]]]`): From a part to its rows.
    """

    parts: list[PublishedStructures]
    plan: Any
    make: Callable[[PublishedStructures, dict[str, Any]], Iterator[dict[str, Any]]]

    @property
    def count(self) -> int:
        """Number of structures."""
        return sum(len(part.indices) for part in self.parts)


def plan_import(
    forces: str | Path,
    energies: tuple[str | Path, str | Path] | None = None,
    cell_edge: float = CELL_EDGE,
    host: str = "auto",
    progress: Progress = lambda count: None,
) -> PublishedImport:
    """Reads through a published force file and, if given, the two energy files, holding little of them at a time.

    An energy whose structure is also in the force file, atom for atom at equal positions, joins that row; any other
    becomes a row without forces. Trajectories are found as [`same_trajectory`] tells them apart.

    Args:
        forces (`str` or `Path`): The force file.
        energies (`tuple[str | Path, str | Path]`, *optional*): Files with features and energies.
        cell_edge (`float`, defaults to `CELL_EDGE`): Of the cubic cell, in Å.
        host (`str`, defaults to `"auto"`):
            Of [`SiteSearch`]. Where it finds none, the atoms that are not of the most common element are the sites.
        progress (`Progress`, *optional*): Called with numbers of structures that were read.

    Raises:
        [`InputError`]: Files that are missing, damaged or of another format; naming file, frame and atom.
    """
    SiteSearch(host)  # a host that cannot be read is an error now, and not when the work begins
    files = [Path(forces), *map(Path, energies or ())]
    found = [read_force_file(files[0])]
    if energies is not None:
        found = _join_energies(found[0], read_energy_files(*files[1:]), progress)
    names = _trajectory_names((one for some in found for one in _walk(some, progress)), cell_edge)
    named = [some._replace(trajectories=list(islice(names, len(some.indices)))) for some in found]
    parts = [part for some in named for part in some.pieces(STRUCTURES_PER_PART)]
    plan = {"files": [file_state(file) for file in files], "cell_edge": cell_edge, "host": [host, host_state(host)]}
    return PublishedImport(parts, plan, partial(published_rows, cell_edge=cell_edge, host=host))


def published_rows(
    part: PublishedStructures, notes: dict[str, Any], cell_edge: float, host: str
) -> Iterator[dict[str, Any]]:
    """Rows of [`structure_row`] for some structures; there is nothing to note."""
    search = SiteSearch(host)
    forces = read_tensors(part.path, part.forces) if part.forces else repeat(None)
    trajectory = ""
    for number, (tokens, labels, source) in enumerate(zip(read_tokens(part), forces, part.sources, strict=False)):
        atoms = tokens.atoms(cell_edge)
        foreign, config_type = tokens.foreign()
        row = structure_row(
            atoms,
            None if labels is None else labels[tokens.is_atom],
            part.energies[number],
            importance_weights=tokens.weights,
            defect_sites=() if host == "none" else tokens.positions[foreign],
            config_type=config_type,
            trajectory=part.trajectories[number],
            source=source,
        )
        new_trajectory, trajectory = row["trajectory"] != trajectory, row["trajectory"]
        yield row | search.columns(atoms, new_trajectory, source.replace("#", ", frame "))


def _walk(structures: PublishedStructures, progress: Progress) -> Iterator[tuple[Tokens, str]]:
    """Tokens and source of each structure."""
    for piece in structures.pieces(STRUCTURES_PER_PART):  # a map of the whole file would come to lie in memory
        yield from zip(read_tokens(piece), piece.sources, strict=True)
        progress(len(piece.indices))


def _join_energies(
    forces: PublishedStructures, energies: PublishedStructures, progress: Progress
) -> list[PublishedStructures]:
    """The structures of the force file with the energies that belong to them, and those of the energies left."""
    with_energy = [tokens.fingerprint for tokens, _ in _walk(energies, progress)]
    with_forces = [tokens.fingerprint for tokens, _ in _walk(forces, progress)]
    energy_of = dict(zip(with_energy, energies.energies, strict=True))
    known = set(with_forces)
    rest = [number for number, fingerprint in enumerate(with_energy) if fingerprint not in known]
    return [forces._replace(energies=[energy_of.get(one) for one in with_forces]), energies.some(rest)]


def _trajectory_names(structures: Iterable[tuple[Tokens, str]], cell_edge: float) -> Iterator[str]:
    """The source of the first structure of each one's trajectory; as [`same_trajectory`] tells, many times faster."""
    cell, pbc = np.eye(3) * cell_edge, np.ones(3, dtype=bool)
    before, name = None, ""
    for tokens, source in structures:
        if before is None or not _continues(before, tokens, cell, pbc):
            name = source
        before = tokens
        yield name


def _continues(before: Tokens, after: Tokens, cell: np.ndarray, pbc: np.ndarray) -> bool:
    if not (len(after.numbers) and np.array_equal(before.numbers, after.numbers)):
        return False
    steps = shortest_images(after.positions - before.positions, cell, pbc)
    return bool((steps**2).sum(axis=1).max() < LARGEST_STEP**2)
