"""Labelled structures out of any file that ASE reads."""

import reprlib
from collections.abc import Iterator, Sequence
from os.path import commonpath
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import iread
from ase.io.formats import UnknownFileTypeError

from ..errors import InputError
from .splitting import trajectory_starts
from .structures import structure_row

# Searched in this order; names that say "reference" come first, since a file may also hold a model's predictions.
FORCE_KEYS = ("REF_forces", "ref_forces", "DFT_forces", "dft_forces", "forces", "force")
ENERGY_KEYS = ("REF_energy", "ref_energy", "DFT_energy", "dft_energy", "energy")


def read_structures(
    path: str | Path,
    *,
    name: str | None = None,
    forces_key: str | None = None,
    energy_key: str | None = None,
    group_key: str | None = None,
) -> list[dict[str, Any]]:
    """All frames of a file as rows of [`structure_row`].

    Forces and energies are what the file says: constraints stored beside them (frozen atoms) never zero a label.
    `info["config_type"]` and `info["defect_sites"]` ((S, 3) in Å) are taken over where present.

    Args:
        path: any format of `ase.io.read`.
        name: what rows call the file in `source` and `trajectory`; its base name by default.
        forces_key: array with the forces (eV/Å); by default the first of `FORCE_KEYS`, also among calculator results.
        energy_key: likewise for the energy (eV), which may be missing unless the key is given.
        group_key: key in `info` whose value names the trajectory; by default consecutive frames with the same atoms,
            moved by little, are one trajectory ([`trajectory_starts`]).

    Raises:
        InputError: for a file that is missing, empty or not readable, and for a frame without forces or with bad data.
    """
    path = Path(path)
    name = name or path.name
    frames = list(read_frames(path))
    if not frames:
        raise InputError(f"{path}: no structures in it")
    starts = trajectory_starts(frames)
    rows = []
    for index, (atoms, start) in enumerate(zip(frames, starts, strict=True)):
        where = f"{path}, frame {index}"
        trajectory = f"{name}#{start}" if group_key is None else _group(atoms, group_key, where)
        row = structure_row(
            atoms,
            forces=_label(atoms, forces_key, FORCE_KEYS, where, required=True),
            energy=_energy(atoms, energy_key, where),
            defect_sites=_defect_sites(atoms, where),
            config_type=str(atoms.info.get("config_type", "")),
            trajectory=trajectory,
            source=f"{path}#{index}",
        )
        rows.append(row | {"source": f"{name}#{index}"})
    return rows


def distinct_names(paths: Sequence[str | Path]) -> list[str]:
    """Short names for files: the part of each path below the folder that all share; base names for one folder."""
    parents = [Path(path).absolute().parent for path in paths]
    shared = commonpath(parents)
    return [
        (parent.relative_to(shared) / Path(path).name).as_posix() for parent, path in zip(parents, paths, strict=True)
    ]


def read_frames(path: Path, index: str = ":") -> Iterator[Atoms]:
    """What `index` selects of a file, in Python's notation: "0", "-1", ":", "::10"; nothing where it selects nothing.

    Raises:
        InputError: for a file that is missing, empty or not readable.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    count = 0
    try:
        for atoms in iread(path, index=index, do_not_split_by_at_sign=True):
            yield atoms
            count += 1
    except UnknownFileTypeError as error:
        raise InputError(f"{path}: ASE does not know this kind of file") from error
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise InputError(f"{path}: ASE cannot read frame {count}: {message}") from error


def _label(atoms: Atoms, key: str | None, candidates: Sequence[str], where: str, required: bool) -> Any:
    """The value of `key`, or of the first candidate that the frame has, among arrays, info and calculator results."""
    results = {} if atoms.calc is None else atoms.calc.results  # raw: `get_forces` would apply constraints
    found = {**atoms.info, **atoms.arrays, **results}
    for candidate in candidates if key is None else [key]:
        if found.get(candidate) is not None:
            return found[candidate]
    if not required:
        return None
    if key is not None:
        raise InputError(f"{where}: no {key!r}; it has {', '.join(sorted(map(str, found)))}")
    raise InputError(f"{where}: no forces (looked for {', '.join(candidates)}); name them with --forces-key")


def _energy(atoms: Atoms, key: str | None, where: str) -> float | None:
    value = _label(atoms, key, ENERGY_KEYS, where, required=key is not None)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: the energy {reprlib.repr(value)} is not a number") from error


def _group(atoms: Atoms, key: str, where: str) -> str:
    if key not in atoms.info:
        raise InputError(f"{where}: no {key!r} to group by; it has {', '.join(sorted(atoms.info)) or 'no info'}")
    return str(atoms.info[key])


def _defect_sites(atoms: Atoms, where: str) -> np.ndarray:
    sites = np.asarray(atoms.info.get("defect_sites", ()), dtype=object)
    try:
        return sites.astype(np.float64).reshape(-1, 3)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: defect_sites must hold three numbers per site") from error
