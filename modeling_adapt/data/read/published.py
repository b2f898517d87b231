"""The published files as rows of a data set, in parts of which a computer can hold several."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from ...crystal.minimum_image import shortest_images
from ...errors import InputError
from ...torch_files import read_tensors
from ..split.splitting import LARGEST_STEP
from ..structures import structure_row
from .frames import file_state
from .published_format import CELL_EDGE, PublishedStructures, Tokens, read_energy_files, read_force_file, read_tokens
from .site_search import SiteSearch, host_state

STRUCTURES_PER_PART = 1000

Progress = Callable[[int], Any]


@dataclass(frozen=True)
class PublishedImport:
    """What there is to import, for `build_dataset`.

    Args:
        parts: all structures in order, with their trajectories.
        plan: what else decides the content of the rows, in plain values.
        make: from a part to its rows.
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
        forces: the force file.
        energies: files with features and energies.
        cell_edge: of the cubic cell, in Å.
        host: of [`SiteSearch`]. Where it finds none, the atoms that are not of the most common element are the sites.
        progress: called with numbers of structures that were read.

    Raises:
        InputError: for files that are missing, damaged or of another format; naming file, frame and atom.
    """
    if not 0 < cell_edge < np.inf:
        raise InputError(f"the cell edge must be positive, not {cell_edge}")
    SiteSearch(host)  # a host that cannot be read is an error now, and not when the work begins
    files = [Path(forces), *map(Path, energies or ())]
    found = [read_force_file(files[0])]
    if energies is not None:
        found = _join_energies(found[0], read_energy_files(*files[1:]), progress)
    name_of = _TrajectoryNames(cell_edge)
    named = [
        some._replace(trajectories=[name_of(tokens, source) for tokens, source in _walk(some, progress)])
        for some in found
    ]
    parts = [part for some in named for part in some.pieces(STRUCTURES_PER_PART)]
    plan = {"files": [file_state(file) for file in files], "cell_edge": cell_edge, "host": [host, host_state(host)]}
    return PublishedImport(parts, plan, partial(published_rows, cell_edge=cell_edge, host=host))


def read_published(
    forces: str | Path,
    energies: tuple[str | Path, str | Path] | None = None,
    cell_edge: float = CELL_EDGE,
    host: str = "auto",
) -> list[dict[str, Any]]:
    """All rows at once, of files that are small; see [`plan_import`] and [`published_rows`]."""
    work = plan_import(forces, energies, cell_edge, host)
    return [row for part in work.parts for row in work.make(part, {})]


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


class _TrajectoryNames:
    """Tells the trajectory of one structure after another, as [`same_trajectory`] does, many times faster."""

    def __init__(self, cell_edge: float):
        self._cell, self._pbc = np.eye(3) * cell_edge, np.ones(3, dtype=bool)
        self._before: Tokens | None = None
        self._name = ""

    def __call__(self, tokens: Tokens, source: str) -> str:
        """The source of the first structure of the trajectory."""
        if self._before is None or not self._continues(self._before, tokens):
            self._name = source
        self._before = tokens
        return self._name

    def _continues(self, before: Tokens, after: Tokens) -> bool:
        if not (len(after.numbers) and np.array_equal(before.numbers, after.numbers)):
            return False
        steps = shortest_images(after.positions - before.positions, self._cell, self._pbc)
        return bool((steps**2).sum(axis=1).max() < LARGEST_STEP**2)
