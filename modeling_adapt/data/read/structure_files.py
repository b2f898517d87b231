"""Labelled structures out of any file that ASE reads, and out of folders of VASP runs."""

import re
import reprlib
from collections.abc import Iterator, Sequence
from os.path import abspath, commonpath, realpath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa

from ...errors import InputError
from ...feature_extraction_adapt import charge_of
from ...files import readable_name
from ..options import ENERGY_KEYS, FORCE_KEYS, RUN_ENERGY_KEYS, STRESS_KEYS, ReadingOptions
from ..structures import structure_row
from .frames import file_state, find_runs, read_frames, read_run, run_kind, same_trajectory
from .site_search import SiteSearch

LARGEST_STRESS = 5.0  # eV/Å³, 800 GPa; what is larger is in other units
ASYMMETRY = 0.01  # of the largest component, which rounding explains


class StructureFile(NamedTuple):
    """One file to import; plain values, as `build_dataset` wants them for a part.

    Args:
        path (`str`): Of the file.
        name (`str`): What rows call it in `source` and `trajectory`.
        owner (`str`):
            The split where all of it goes, or the source that it is of; empty where there is neither. The names of its
            trajectories begin with it, so that those of two owners are two, see [`owner_of`].
        one_trajectory (`bool`): Whether the file is one, which bears the name of its folder.
        state (`tuple[int, int]`): See [`file_state`].
    """

    path: str
    name: str
    owner: str
    one_trajectory: bool
    state: tuple[int, int]


def find_files(inputs: Sequence[tuple[str, Path]]) -> list[StructureFile]:
    """The files to import: those named, and of folders the VASP runs in them.

    Args:
        inputs (`Sequence[tuple[str, Path]]`): Owner, empty where there is none, and path.

    Raises:
        [`InputError`]: A file that is missing, and a folder without a VASP run.
    """
    files: list[StructureFile] = []
    seen: set[tuple[str, str]] = set()
    for (owner, path), name in zip(inputs, distinct_names([path for _, path in inputs]), strict=True):
        if not path.exists():  # now, and not when those before it are imported
            raise InputError(f"{path}: no such file")
        for run in find_runs(path) if path.is_dir() else [path]:
            if (where := (owner, realpath(run))) in seen:
                raise InputError(f"{run} is given twice; its frames would be counted twice, and might be divided")
            seen.add(where)
            inside = (Path(name) / readable_name(str(run.relative_to(path)))).as_posix()
            files.append(StructureFile(str(run), inside, owner, path.is_dir(), file_state(run)))
    return files


def owner_of(trajectory: str) -> str:
    """The owner of the file that a trajectory is from, where that has one."""
    return trajectory.split("/", 1)[0]


def distinct_names(paths: Sequence[str | Path]) -> list[str]:
    """Short names for files: the part of each path below the folder that all share; base names for one folder."""
    absolute = [Path(abspath(path)) for path in paths]
    shared = commonpath([path.parent for path in absolute])
    return [readable_name(path.relative_to(shared).as_posix()) for path in absolute]


def structure_rows(part: StructureFile, notes: dict[str, Any], options: ReadingOptions) -> Iterator[dict[str, Any]]:
    """Rows of [`structure_row`] for the frames of a file, one at a time.

    Labels are what the file says: constraints stored beside them (frozen atoms) never zero a force.
    `info["config_type"]`, `info["charge"]` (total, in elementary charges), `info["defect_sites"]` ((S, 3) in Å) and
    `info["defect_kinds"]` are taken over.

    Args:
        part ([`StructureFile`]): The file.
        notes (`dict[str, Any]`):
            Gets `skipped`, one line for each thing left out, and `cut_off` for a VASP run that did not end.
        options ([`ReadingOptions`]): See there.

    Raises:
        [`InputError`]: A file that is missing, empty or not readable, and a frame without forces or with bad data.
    """
    path = Path(part.path)
    skipped: list[str] = notes.setdefault("skipped", [])
    search = SiteSearch(options.host)
    energy_keys = ENERGY_KEYS if run_kind(path) is None else RUN_ENERGY_KEYS
    group_sizes: dict[str, int] = {}
    folder = Path(part.name).parent.as_posix() if part.one_trajectory else None
    before: Atoms | None = None
    start = 0
    for index, atoms in enumerate(_readable_frames(path, notes, options.skip_broken)):
        where = f"{path}, frame {index}"
        try:
            row = _row(atoms, options, energy_keys, where)
            new_trajectory = before is None or not same_trajectory(before, atoms)
            if "defect_sites" not in atoms.info:
                row |= search.columns(atoms, new_trajectory, where)
            group = None if options.group_key is None else _group(atoms, options, group_sizes, where)
        except InputError as error:
            if not options.skip_broken:
                raise
            skipped.append(str(error))
            continue
        before, start = atoms, index if new_trajectory else start
        trajectory = group or folder or f"{part.name}#{start}"
        trajectory = f"{part.owner}/{trajectory}" if part.owner else trajectory
        yield row | {"source": f"{part.name}#{index}", "trajectory": trajectory}
    if before is None and not skipped:
        raise InputError(f"{path}: no structures in it")


def _readable_frames(path: Path, notes: dict[str, Any], skip_broken: bool) -> Iterator[Atoms]:
    try:
        kind = run_kind(path)
        yield from read_frames(path) if kind is None else read_run(path, kind, notes)
    except InputError as error:
        if not skip_broken:
            raise
        notes["skipped"].append(str(error))


def _row(atoms: Atoms, options: ReadingOptions, energy_keys: Sequence[str], where: str) -> dict[str, Any]:
    """What the frame alone tells."""
    return structure_row(
        atoms,
        forces=_label(atoms, options.forces_key, FORCE_KEYS, where, required=True),
        energy=_energy(atoms, options.energy_key, energy_keys, where),
        stress=_stress(atoms, options.stress_key, where),
        charge=_charge(atoms, where),
        config_type=str(atoms.info.get("config_type", "")),
        source=where,
        **_known_defects(atoms, where),
    )


def _charge(atoms: Atoms, where: str) -> float | None:
    """None where nothing is said."""
    try:
        return charge_of(atoms) if "charge" in atoms.info else None
    except ValueError as error:
        raise InputError(f"{where}: {str(error).partition(': ')[2]}") from None


def _labels(atoms: Atoms) -> dict[str, Any]:
    results = {} if atoms.calc is None else atoms.calc.results  # raw: `get_forces` would apply constraints
    return {**atoms.info, **atoms.arrays, **results}


def _label(atoms: Atoms, key: str | None, candidates: Sequence[str], where: str, required: bool) -> Any:
    """The value of `key`, or of the first candidate that the frame has, among arrays, info and calculator results."""
    found = _labels(atoms)
    for candidate in candidates if key is None else [key]:
        if found.get(candidate) is not None:
            return found[candidate]
    if not required:
        return None
    if key is not None:
        raise InputError(f"{where}: no {key!r}; it has {', '.join(sorted(map(str, found)))}")
    raise InputError(f"{where}: no forces (looked for {', '.join(candidates)}); name them with --forces-key")


def _energy(atoms: Atoms, key: str | None, candidates: Sequence[str], where: str) -> float | None:
    value = _label(atoms, key, candidates, where, required=key is not None)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: the energy {reprlib.repr(value)} is not a number") from error


def _stress(atoms: Atoms, key: str | None, where: str) -> np.ndarray | None:
    """(3, 3) in eV/Å³; None where the file has none, or the structure is not periodic in all three directions."""
    if key == "none" or not atoms.pbc.all():
        return None
    found = _labels(atoms)
    name = next((name for name in STRESS_KEYS if found.get(name) is not None), None) if key is None else key
    if name is None:
        return None
    remedy = "name the right one with --stress-key, or leave it out with --stress-key none"
    try:
        value = np.asarray(_label(atoms, name, (), where, required=True), dtype=np.float64)
        value = voigt_6_to_full_3x3_stress(value) if value.shape == (6,) else value.reshape(3, 3)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {name!r} is no stress of 3 x 3 or 6 numbers; {remedy}") from error
    stress = -value / atoms.get_volume() if "virial" in name.lower() else value
    if np.abs(stress - stress.T).max() > ASYMMETRY * np.abs(stress).max():
        raise InputError(f"{where}: {name!r} is not symmetric, as a stress is; {remedy}")
    if (largest := np.abs(stress).max()) > LARGEST_STRESS:
        raise InputError(f"{where}: {name!r} comes to {largest / GPa:.0f} GPa; it must be in eV/Å³; {remedy}")
    return (stress + stress.T) / 2


def _group(atoms: Atoms, options: ReadingOptions, sizes: dict[str, int], where: str) -> str:
    """The name of the trajectory; `sizes` remembers how many atoms each has."""
    key = options.group_key
    if key not in atoms.info:
        raise InputError(f"{where}: no {key!r} to group by; it has {', '.join(sorted(atoms.info)) or 'no info'}")
    name = str(atoms.info[key])
    if options.group_pattern is not None:
        if (found := re.search(options.group_pattern, name)) is None:
            raise InputError(f"{where}: {key}={name} has nothing that the pattern {options.group_pattern!r} matches")
        name = found.group(1) if found.re.groups else found.group()
    if (size := sizes.setdefault(name, len(atoms))) != len(atoms):
        raise InputError(
            f"{where}: {len(atoms)} atoms, but trajectory {key}={name} began with {size}; "
            "give trajectories names of their own, or leave --group-key out"
        )
    return name


def _known_defects(atoms: Atoms, where: str) -> dict[str, Any]:
    """`defect_sites` and `defect_kinds` that the file tells."""
    kinds = atoms.info.get("defect_kinds", ())
    sites = np.asarray(atoms.info.get("defect_sites", ()), dtype=object)
    try:
        sites = sites.astype(np.float64).reshape(-1, 3)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: defect_sites must hold three numbers per site") from error
    return {"defect_sites": sites, "defect_kinds": kinds.split() if isinstance(kinds, str) else list(kinds)}
