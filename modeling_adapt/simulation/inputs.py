"""Structures to relax, from files or data sets, each under a name that files can carry."""

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.formats import ioformats, string2index

from ..crystal.contacts import coinciding_atoms
from ..data.load.reading import read_split
from ..data.read.frames import read_frames
from ..data.structures import atoms_from_row
from ..errors import InputError
from ..files import readable_name
from .exchange import holds_objects, read_objects

_LONGEST = 220  # bytes


def read_inputs(
    inputs: Sequence[str | Path], index: str = "-1", split: str = "test", any_charge: bool = False
) -> dict[str, Atoms]:
    """
    Reads what `index` selects of every input.

    Args:
        inputs (`Sequence[str | Path]`):
            Files that ASE reads, folders of such files, folders of data sets, or globs of any of these.
        index (`str`, defaults to `"-1"`):
            Which frames of a file, or rows of a split, in Python's notation: "0", "-1", ":", "::10".
        split (`str`, defaults to `"test"`): The split of a data set.
        any_charge (`bool`, defaults to `False`): Whether structures with a charge are taken too.

    Returns:
        `dict[str, Atoms]`: Structures by name: the name of the file without its ending; the whole path where two files
        share one; with the number of the frame, or the name of the defect in a file of doped, where an input gives
        several.

    Raises:
        [`InputError`]: An input that does not exist, cannot be read or has no such frame; a structure without atoms,
            with positions that are not finite, or with two atoms at the same place.
    """
    paths = [path for name in inputs for path in _expanded(Path(name))]
    structures: dict[str, Atoms] = {}
    for path, name in zip(paths, _names(paths), strict=True):
        for inside, atoms in _read(path, index, split).items():
            _require_atoms(atoms, f"{path}, structure {inside}" if inside else str(path), any_charge)
            usable = _short(_openable(f"{name}-{_usable(inside)}" if inside else name))
            if usable in structures:
                raise InputError(f"2 inputs would write to the same files {usable}.*; rename them or relax them apart")
            structures[usable] = atoms
    return structures


def _read(path: Path, index: str, split: str) -> dict[str, Atoms]:
    """The structures of one input by their name or number in it; a single one has the empty name."""
    if path.is_file() and holds_objects(path):
        return read_objects(path)
    frames = _read_dataset(path, index, split) if _is_dataset(path) else _read_file(path, index)
    return {"": frames[0]} if len(frames) == 1 else {str(number): atoms for number, atoms in enumerate(frames)}


def _usable(name: str) -> str:
    """`name` with nothing that a file name cannot carry."""
    return "".join(letter if letter.isalnum() or letter in "-_.+" else "_" for letter in name)


def _openable(name: str) -> str:
    """
    `name` so that ASE opens the results under it as what they are: a file whose name has POSCAR, OUTCAR or the like in
    it would be read as one of those, whatever its ending. Such a name comes in lower case.
    """
    patterns = [pattern for kind in ioformats.values() for pattern in kind.globs]
    return name.lower() if any(fnmatchcase(f"{name}.relaxed.extxyz", pattern) for pattern in patterns) else name


def _short(name: str) -> str:
    """`name`, or the end of it, so that the names of the results are no longer than systems allow."""
    return name.encode()[-_LONGEST:].decode(errors="ignore")


def _expanded(path: Path) -> list[Path]:
    """A glob as what it matches, and a folder that is no data set as the files in it, by name."""
    if not path.exists() and any(mark in str(path) for mark in "*?["):
        found = sorted(map(Path, glob(str(path), recursive=True)))
        if not found:
            raise InputError(f"{path} matches no file")
        return [file for one in found for file in _expanded(one)]
    if not path.is_dir() or _is_dataset(path):
        return [path]
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    if not files:
        raise InputError(f"{path} holds no parquet files and no other files: neither a data set nor structures")
    return files


def _is_dataset(path: Path) -> bool:
    return path.is_dir() and any(path.rglob("*.parquet"))


def _names(paths: list[Path]) -> list[str]:
    shared = Counter(path.stem for path in paths)
    names = ["-".join(path.parts).strip("/.-") if shared[path.stem] > 1 else path.stem for path in paths]
    names = [readable_name(name) for name in names]
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{count} inputs would write to the same files {name}.*; rename them or relax them apart")
    return names


def _read_file(path: Path, index: str) -> list[Atoms]:
    frames = list(read_frames(path, index))
    if not frames:
        raise InputError(f"{path} has no structure at index {index}")
    return frames


def _read_dataset(path: Path, index: str, split: str) -> list[Atoms]:
    rows = read_split(path, split)
    selector = string2index(index)
    try:
        selected = np.atleast_1d(np.arange(len(rows))[selector])  # type: ignore[index]
    except IndexError:
        selected = np.array([])
    if not len(selected):
        raise InputError(f"{path}, split {split}, has {len(rows)} rows and none at index {index}")
    return [atoms_from_row(rows[int(number)]) for number in selected]


def _require_atoms(atoms: Atoms, where: str, any_charge: bool) -> None:
    if len(atoms) == 0:
        raise InputError(f"{where}: there are no atoms")
    finite = np.isfinite(atoms.positions).all(axis=1)
    if not finite.all():
        raise InputError(f"{where}: the position of atom {int(np.argmin(finite))} is not finite")
    charge = atoms.info.get("charge") or 0
    if charge and not any_charge:
        raise InputError(f"{where}: a charge of {charge:+g}; the model knows neutral structures only")
    try:
        pair = coinciding_atoms(atoms)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if pair is not None:
        raise InputError(f"{where}: atoms {pair[0]} and {pair[1]} are at the same place")
