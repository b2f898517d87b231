"""The file format of the published ADAPT data: token matrices and labels in torch files.

`{"X": [(n, 13) or (n, 12)], "Y": [(n, 3)]}` for forces; for energies a tensor or list of (n, 12) and one of total
energies in eV. Columns: x, y, z (Å), the nine descriptors, and in column 13 the importance weight. Rows of zeros are
padding.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from ..elements_adapt import DESCRIPTORS, SYMBOLS
from ..errors import InputError
from ..torch_files import read_torch_file
from .splitting import trajectory_starts
from .structures import structure_row

CELL_EDGE = 16.406184  # Å; the cubic 216-atom silicon cell of the published data
_GROUP, _PERIOD = 3, 4  # columns


def read_published(
    forces: str | Path, energies: tuple[str | Path, str | Path] | None = None, cell_edge: float = CELL_EDGE
) -> list[dict[str, Any]]:
    """Rows of [`structure_row`] from a published force file and, if given, the two energy files.

    The format stores descriptors instead of elements, and no lattice. Elements are recovered from group and period,
    the cell is cubic, and atoms that are not of the most common element count as the defect sites. An energy whose
    structure is also in the force file, atom for atom at equal positions, joins that row; any other becomes a row
    without forces.

    Raises:
        InputError: for files that are missing, damaged or of another format; naming file, frame and atom.
    """
    if not 0 < cell_edge < np.inf:
        raise InputError(f"the cell edge must be positive, not {cell_edge}")
    frames = [
        _frame(features, labels, f"{Path(forces).name}#{index}", cell_edge)
        for index, (features, labels) in enumerate(_read_forces(Path(forces)))
    ]
    if energies is not None:
        known = {_fingerprint(frame["atoms"]): frame for frame in frames}
        for index, (features, energy) in enumerate(_read_energies(*map(Path, energies))):
            frame = _frame(features, None, f"{Path(energies[0]).name}#{index}", cell_edge)
            twin = known.get(_fingerprint(frame["atoms"]))
            if twin is None:
                frames.append(frame)
            (twin or frame)["energy"] = float(energy)
    starts = trajectory_starts([frame["atoms"] for frame in frames])
    return [
        structure_row(**frame, trajectory=frames[start]["source"]) for frame, start in zip(frames, starts, strict=True)
    ]


def atomic_numbers(tokens: np.ndarray, where: str = "structure") -> np.ndarray:
    """Elements of tokens (N, >= 12) from their group and period columns: (N,) int.

    Where several elements share them (lanthanides), the one whose other descriptors are nearest, relatively.
    """
    numbers = np.zeros(len(tokens), dtype=np.int64)
    for group, period in np.unique(tokens[:, [_GROUP, _PERIOD]], axis=0):
        members = (tokens[:, _GROUP] == group) & (tokens[:, _PERIOD] == period)
        candidates = np.flatnonzero((DESCRIPTORS[:, 0] == group) & (DESCRIPTORS[:, 1] == period))
        if not candidates.size or group == 0:
            atom = int(np.flatnonzero(members)[0])
            raise InputError(
                f"{where}: atom {atom} has group {group:g} and period {period:g}, which is no known element"
            )
        table = DESCRIPTORS[candidates]
        difference = np.abs(tokens[members][:, None, 3:12] - table) / np.maximum(np.abs(table), 1.0)
        numbers[members] = candidates[difference.sum(axis=2).argmin(axis=1)]
    return numbers


def _frame(features: torch.Tensor, forces: torch.Tensor | None, source: str, cell_edge: float) -> dict[str, Any]:
    """The arguments of `structure_row` for one matrix of tokens; padding rows left out."""
    where = source.replace("#", ", frame ")
    tokens = features.double().numpy()
    if tokens.ndim != 2 or tokens.shape[1] not in (12, 13):
        raise InputError(f"{where}: features of shape {tokens.shape}; expected (atoms, 12) or (atoms, 13)")
    labels = None if forces is None else forces.double().numpy()
    if labels is not None and labels.shape != (len(tokens), 3):
        raise InputError(f"{where}: forces of shape {labels.shape} for {len(tokens)} rows of features")
    real = tokens.any(axis=1)
    tokens = tokens[real]
    damaged = ~np.isfinite(tokens[:, _GROUP:12]).all(axis=1)
    if damaged.any():
        raise InputError(f"{where}: a descriptor of atom {int(np.argmax(damaged))} is not a finite number")
    numbers = atomic_numbers(tokens, where)
    host = Counter(numbers.tolist()).most_common(1)[0][0] if len(numbers) else 0
    foreign = numbers != host
    return {
        "atoms": Atoms(numbers=numbers, positions=tokens[:, :3], cell=[cell_edge] * 3, pbc=True),
        "forces": None if labels is None else labels[real],
        "energy": None,
        "importance_weights": tokens[:, 12] if tokens.shape[1] == 13 else None,
        "defect_sites": tokens[foreign, :3],
        "config_type": "+".join(SYMBOLS[number] for number in np.unique(numbers[foreign])) or SYMBOLS[host],
        "source": source,
    }


def _fingerprint(atoms: Atoms) -> bytes:
    return atoms.numbers.tobytes() + (atoms.positions + 0.0).astype(np.float32).tobytes()  # + 0.0: no negative zeros


def _read_forces(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    content = read_torch_file(path)
    if not isinstance(content, dict) or not {"X", "Y"} <= content.keys():
        raise InputError(f'{path}: not a published force file; expected a dict with "X" and "Y"')
    return _paired(content["X"], content["Y"], f"{path}: X", "Y")


def _read_energies(features: Path, energies: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pairs = _paired(read_torch_file(features), read_torch_file(energies), str(features), str(energies))
    if any(energy.numel() != 1 for _, energy in pairs):
        raise InputError(f"{energies}: expected one energy per structure")
    return pairs


def _paired(features: Any, labels: Any, name: str, label_name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    for value, what in ((features, name), (labels, label_name)):
        tensors = isinstance(value, Sequence) and all(isinstance(item, torch.Tensor) for item in value)
        if not tensors and not (isinstance(value, torch.Tensor) and value.ndim > 0):
            raise InputError(f"{what}: expected a tensor or a list of tensors, not {type(value).__name__}")
    if len(features) != len(labels) or len(features) == 0:
        raise InputError(
            f"{name} has {len(features)} structures, {label_name} has {len(labels)}; expected equally many"
        )
    return list(zip(features, labels, strict=True))
