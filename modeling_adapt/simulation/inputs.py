"""Structures to relax, from files, trees of folders or data sets, each under a name that files can carry."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from glob import glob
from math import isnan
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype, get_compression, ioformats, string2index

from ..crystal.contacts import coinciding_atoms
from ..data.load.reading import read_split
from ..data.read.charges import charge_of_inputs, named_charge
from ..data.read.frames import read_frames, run_charge, run_kind
from ..data.read.structure_files import distinct_names
from ..data.structures import atoms_from_row
from ..errors import InputError
from ..feature_extraction_adapt import charge_of
from ..files import readable_name
from .exchange import NoStructureError, holds_objects, read_entries, read_objects
from .results import RECORD

_RUN_FILES = ("POSCAR", "CONTCAR", "vasprun.xml", "OUTCAR", "XDATCAR")  # of a folder with several, the first is taken
# A file of a tree that cannot be read is a broken structure where its name says so, and something else otherwise.
_ENDINGS = {"cif", "xyz", "extxyz", "vasp", "poscar", "traj", "xsf", "pdb", "cfg", "gen", "res", "cell", "db"}
_LONGEST = 220  # bytes of the name of a file
_SHOWN = 4  # names of files that are no structures


class Found(NamedTuple):
    """
    What there is to relax.

    Args:
        structures (`dict[str, Atoms]`):
            By name: that of the file without its ending; the path below the folder that was searched, or that all
            files share, where it is one of many; with the number of the frame, or the name of the defect in a file of
            doped, where a file gives several.
        skipped (`dict[str, str]`): By name, why a structure is left out.
        notes (`list[str]`): What each of the folders holds that were searched.
        objects (`dict[str, tuple[Path, str]]`):
            Of structures in files of pymatgen and doped, by name, the file and what they are called there.
    """

    structures: dict[str, Atoms]
    skipped: dict[str, str]
    notes: list[str]
    objects: dict[str, tuple[Path, str]]

    def defect_entries(self, names: Collection[str]) -> dict[str, dict[str, Any]]:
        """Those of `names` that are defect entries of doped, as they stand in their files."""
        wanted = {name: place for name, place in self.objects.items() if name in names}
        files = {path: read_entries(path) for path in {path for path, _ in wanted.values()}}
        return {name: files[path][inside] for name, (path, inside) in wanted.items() if inside in files[path]}


class Selection(NamedTuple):
    """
    Patterns such as `v_Cd_0/*` or `Rattled`, for a name or a path, or for a folder in it.

    Args:
        include (`Sequence[str]`, defaults to `()`): One of these must match; nothing is asked where there are none.
        exclude (`Sequence[str]`, defaults to `()`): None of these may.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def takes(self, *names: str) -> bool:
        """Whether something that bears these names is wanted."""
        return self.includes(*names) and not _matches(self.exclude, names)

    def includes(self, *names: str) -> bool:
        return not self.include or _matches(self.include, names)


def _matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a pattern matches one of the names, or a part of one."""
    texts = {text for name in names for text in (name, *PurePath(name).parts)}
    return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)


class _File(NamedTuple):
    """A file, or a data set, that may hold structures; what it is called, and the folder that was searched for it."""

    path: Path
    name: str
    tree: Path | None = None

    @property
    def below(self) -> str:
        """The path in the folder that was searched."""
        return (self.path if self.tree is None else self.path.relative_to(self.tree)).as_posix()


def read_inputs(
    inputs: Sequence[str | Path], index: str = "-1", split: str = "test", any_charge: bool = False
) -> dict[str, Atoms]:
    """
    As [`find_inputs`], where nothing may be left out.

    Raises:
        [`InputError`]: Also for a structure that [`find_inputs`] would skip.
    """
    found = find_inputs(inputs, index, split, any_charge=any_charge)
    for reason in found.skipped.values():
        raise InputError(reason)
    return found.structures


def read_structure(path: Path, kind: str, any_charge: bool = False, charge: float | None = None) -> Atoms:
    """
    The last structure in a file of which nothing is believed but its content.

    Args:
        path (`Path`): The file.
        kind (`str`): ASE's name of its format, such as extxyz; no other is tried, whatever the file says it is.
        any_charge, charge: As in [`find_inputs`].

    Raises:
        [`InputError`]: It cannot be read, or [`find_inputs`] would skip it.
    """
    (atoms,) = _read_file(path, "-1", kind)
    if charge is not None:
        atoms.info["charge"] = charge
    if reason := _fault(atoms, path, "", any_charge, charge):
        raise InputError(f"{path}: {reason}")
    return atoms


def find_inputs(
    inputs: Sequence[str | Path],
    index: str = "-1",
    split: str = "test",
    selection: Selection | None = None,
    any_charge: bool = False,
    charge: float | None = None,
) -> Found:
    """
    Reads what `index` selects of every input.

    Args:
        inputs (`Sequence[str | Path]`):
            Files that ASE reads, JSON of pymatgen or doped, folders of data sets, other folders, which are searched
            with all folders in them, or globs of any of these.
        index (`str`, defaults to `"-1"`):
            Which frames of a file, or rows of a split, in Python's notation: "0", "-1", ":", "::10".
        split (`str`, defaults to `"test"`): The split of a data set.
        selection ([`Selection`], *optional*): Which structures are wanted.
        any_charge (`bool`, defaults to `False`): Whether structures with a charge are taken too.
        charge (`float`, *optional*): That of all, in elementary charges, whatever the inputs say.

    Raises:
        [`InputError`]: An input that does not exist; nothing that can be relaxed in all of them.
    """
    selection = selection or Selection()
    files = list(_files(inputs, selection))
    found = Found({}, {}, [], {})
    others: dict[Path, list[Path]] = {file.tree: [] for file in files if file.tree is not None}
    inside_trees: dict[Path, list[str]] = {tree: [] for tree in others}  # also what will be skipped
    for file in files:
        names = (file.name, file.below)
        if _matches(selection.exclude, names):
            continue
        try:
            frames = _read(file, index, split)
        except InputError as error:
            if file.tree is not None and isinstance(error, NoStructureError):
                others[file.tree].append(file.path)
            elif selection.includes(*names):
                found.skipped[file.below] = str(error)  # with its ending: another file of that name may be fine
                if file.tree is not None:
                    inside_trees[file.tree].append(file.below)
            continue
        for inside, atoms in frames.items():
            name = _short(_openable(f"{file.name}-{_usable(inside)}" if inside else file.name))
            if not selection.takes(name, inside, *names):
                continue
            if name in found.structures or name in found.skipped:
                raise InputError(f"2 inputs would write to the same files {name}.*; rename them or relax them apart")
            where = f"{file.path}, structure {inside}" if inside else str(file.path)
            if charge is not None:
                atoms.info["charge"] = charge
            reason = _fault(atoms, file.path, inside, any_charge, charge)
            if file.tree is not None:
                inside_trees[file.tree].append(name)
            if reason is None:
                found.structures[name] = atoms
                if file.path.is_file() and holds_objects(file.path):
                    found.objects[name] = (file.path, inside)
            else:
                found.skipped[name] = f"{where}: {reason}"
    _require_some(found, files, selection, others)
    found.notes.extend(_note(tree, inside_trees[tree], rest) for tree, rest in others.items())
    return found


def _require_some(found: Found, files: list[_File], selection: Selection, others: dict[Path, list[Path]]) -> None:
    if found.structures:
        return
    reasons = list(found.skipped.values())
    if reasons:
        raise InputError(reasons[0] if len(reasons) == 1 else f"none of {len(reasons)}; the first: {reasons[0]}")
    if any(selection) and len(files) > sum(map(len, others.values())):
        raise InputError("--include and --exclude leave no structure")
    tree, rest = next(iter(others.items()))
    raise InputError(f"{tree} holds no structures and no data set; what is in it is something else{_some(rest)}")


def _note(tree: Path, own: list[str], rest: list[Path]) -> str:
    """What a folder holds."""
    folders = {name.rpartition("/")[0] for name in own} - {""}
    inside = f" in {len(folders)} folders" if len(folders) > 1 else ""
    return f"{tree}: {len(own)} structures{inside}; files that are no structures: {len(rest) or 'none'}{_some(rest)}"


def _some(paths: Sequence[Path]) -> str:
    names = [name for name, _ in Counter(path.name for path in paths).most_common()]
    return f" ({', '.join([*names[:_SHOWN], *['...'][: len(names) - _SHOWN]])})" if names else ""


def _read(file: _File, index: str, split: str) -> dict[str, Atoms]:
    """The structures of one input by their name or number in it; a single one has the empty name."""
    path = file.path
    if path.is_file() and holds_objects(path):
        return read_objects(path)
    if file.tree is not None and not _may_be_structure(path):
        raise NoStructureError(f"{path} is no structure")
    try:
        frames = _read_dataset(path, index, split) if _is_dataset(path) else _read_file(path, index)
    except InputError as error:
        if file.tree is None or _called_a_structure(path):
            raise
        raise NoStructureError(str(error)) from error
    return {"": frames[0]} if len(frames) == 1 else {str(number): atoms for number, atoms in enumerate(frames)}


def _may_be_structure(path: Path) -> bool:
    """Whether ASE has a reader for it; no file is read as a whole for that."""
    if _run_file(path) is not None:
        return True
    try:
        kind = ioformats.get(filetype(str(path)))
    except (UnknownFileTypeError, OSError, EOFError):
        return _called_a_structure(path)
    return kind is not None and kind.can_read


def _called_a_structure(path: Path) -> bool:
    ending = Path(get_compression(str(path))[0]).suffix[1:].lower()
    return ending in _ENDINGS or _run_file(path) is not None


def _run_file(path: Path) -> int | None:
    """The place in `_RUN_FILES` of a file that VASP reads or writes, perhaps compressed; None of others."""
    name = Path(get_compression(str(path))[0]).name
    return _RUN_FILES.index(name) if name in _RUN_FILES else None


def _usable(name: str) -> str:
    """`name` with nothing that a file name cannot carry."""
    return "".join(letter if letter.isalnum() or letter in "-_.+" else "_" for letter in name)


def _openable(name: str) -> str:
    """
    `name` so that ASE opens the results under it as what they are: a file whose name has POSCAR, OUTCAR or the like in
    it would be read as one of those, whatever its ending. Such a name comes in lower case.
    """
    folder, slash, last = name.rpartition("/")
    patterns = [pattern for kind in ioformats.values() for pattern in kind.globs]
    taken = any(fnmatchcase(f"{last}.relaxed.extxyz", pattern) for pattern in patterns)
    return folder + slash + (last.lower() if taken else last)


def _files(inputs: Sequence[str | Path], selection: Selection) -> Iterator[_File]:
    """Globs as what they match, folders that are no data sets as the files in them, by name."""
    paths = [path for name in inputs for path in _expanded(Path(name))]
    trees = [path for path in paths if path.is_dir() and not _is_dataset(path)]
    names = dict(zip(plain := [path for path in paths if path not in trees], _names(plain), strict=True))
    for path in paths:
        if path in trees:
            yield from _in_tree(path, selection, several=len(trees) > 1)
        else:
            yield _File(path, names[path])


def _short(name: str) -> str:
    """`name`, or the end of its last part, so that the names of the results are no longer than systems allow."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.encode()[-_LONGEST:].decode(errors="ignore")


def _expanded(path: Path) -> list[Path]:
    if path.exists() or not any(mark in str(path) for mark in "*?["):
        return [path]
    found = sorted(map(Path, glob(str(path), recursive=True)))
    if not found:
        raise InputError(f"{path} matches no file")
    return found


def _in_tree(tree: Path, selection: Selection, several: bool) -> Iterator[_File]:
    """The files of a folder and those in it; of the files of one VASP run the first of `_RUN_FILES`."""
    root = tree.resolve().name
    keeps = several or named_charge(root) is not None
    files = [path for folder in _folders(tree) for path in _one_of_each_run(folder, selection)]
    if not files:
        raise InputError(f"{tree} holds no parquet files and no other files: neither a data set nor structures")
    for path in files:
        below = path.relative_to(tree).as_posix()
        name = _without_ending(
            f"{root}/{below}" if keeps or (below == path.name and _run_file(path) is not None) else below
        )
        yield _File(path, name, tree)


def _folders(tree: Path) -> Iterator[list[Path]]:
    """The files of each folder, sorted; hidden ones are left alone, and results of ours."""
    seen = set()
    for parent, folders, names in os.walk(tree, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and os.path.realpath(os.path.join(parent, name)) not in seen  # no rings
            and not os.path.isfile(os.path.join(parent, name, RECORD))
        )
        yield [Path(parent, name) for name in sorted(names) if not name.startswith(".")]


def _one_of_each_run(files: list[Path], selection: Selection) -> list[Path]:
    wanted = [path for path in files if _run_file(path) is not None]
    wanted = [path for path in wanted if selection.include and _matches(selection.include, [path.name])] or wanted
    first = min(wanted, key=lambda path: _run_file(path) or 0, default=None)
    return [path for path in files if _run_file(path) is None or path == first]


def _is_dataset(path: Path) -> bool:
    return path.is_dir() and any(path.rglob("*.parquet"))


def _without_ending(path: str) -> str:
    """The name of what is in a file: of a VASP run in a folder, that of the folder."""
    folder, _, name = path.rpartition("/")
    if _run_file(Path(name)) is not None and folder:
        return folder
    return f"{folder}/{Path(name).stem}" if folder else Path(name).stem


def _names(paths: list[Path]) -> list[str]:
    """Of files that are named one by one: their stems; of those that share one, the path below what they share."""
    shared = Counter(path.stem for path in paths)
    alike = [path for path in paths if shared[path.stem] > 1]
    below = dict(zip(alike, map(_without_ending, _below(alike)), strict=True)) if alike else {}
    names = [readable_name(below.get(path, path.stem)) for path in paths]
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{count} inputs would write to the same files {name}.*; rename them or relax them apart")
    return names


def _below(paths: list[Path]) -> list[str]:
    """Paths below the folder that all share, with that folder where it names a charge."""
    names = distinct_names(paths)
    shared = Path(os.path.abspath(paths[0])).as_posix().removesuffix(names[0])
    kept = PurePath(shared).name
    return [f"{kept}/{name}" for name in names] if named_charge(kept) is not None else names


def _read_file(path: Path, index: str, kind: str | None = None) -> list[Atoms]:
    frames = list(read_frames(path, index, kind))
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


def _fault(atoms: Atoms, path: Path, inside: str, any_charge: bool, charge: float | None) -> str | None:
    """Why a structure is not relaxed."""
    return _atoms_fault(atoms) or (_charge_fault(atoms, path, inside, any_charge) if charge is None else None)


def _atoms_fault(atoms: Atoms) -> str | None:
    """What no model could relax."""
    if len(atoms) == 0:
        return "there are no atoms"
    finite = np.isfinite(atoms.positions).all(axis=1)
    if not finite.all():
        return f"the position of atom {int(np.argmin(finite))} is not finite"
    try:
        pair = coinciding_atoms(atoms)
    except InputError as error:
        return str(error)
    return None if pair is None else f"atoms {pair[0]} and {pair[1]} are at the same place"


def _charge_fault(atoms: Atoms, path: Path, inside: str, any_charge: bool) -> str | None:
    """One that nobody knows, or that models do not read. What is found stays in `info["charge"]`."""
    if run_kind(path) is None:
        try:
            charge_of(atoms)
        except ValueError as error:
            return str(error).removeprefix("structure 0: ")
    charge, told = _charge(atoms, path, inside)
    if isnan(charge):
        return "INCAR sets NELECT, and no POTCAR tells of which charge that is (relax.py --charge says it)"
    if charge == 0:
        return None
    atoms.info["charge"] = charge
    if any_charge:
        return None
    what = f"a charge of {charge:+g}{told}"
    return f"{what}; the model knows neutral structures only (relax.py --charge 0 relaxes it as a neutral one)"


def _charge(atoms: Atoms, path: Path, inside: str) -> tuple[float, str]:
    """In elementary charges, and who tells it; 0 where nobody does."""
    for name in ("charge", "charge_state"):
        if name in atoms.info:
            return _number(atoms.info[name]), ""
    by_names = named_charge(inside) or named_charge(path.absolute().as_posix())
    electrons = None
    if run_kind(path) is not None:
        electrons = run_charge(path)
    elif _run_file(path) is not None:
        electrons = charge_of_inputs(path.parent, atoms)
    if electrons is not None and not (isnan(electrons) and by_names):
        return electrons, " by its NELECT"
    return (0.0, "") if by_names is None else (by_names.charge, " by its name")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
