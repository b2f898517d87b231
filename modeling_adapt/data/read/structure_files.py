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
from ...files import readable_name
from ..options import ENERGY_KEYS, FORCE_KEYS, ISOLATED, RUN_ENERGY_KEYS, STRESS_KEYS, ReadingOptions
from ..structures import is_isolated, structure_row
from .charges import named_charge
from .frames import file_state, find_runs, read_frames, read_run, run_kind, same_trajectory
from .site_search import SiteSearch

LARGEST_STRESS = 5.0  # eV/Å³, 800 GPa; what is larger is in other units
_WITHOUT_DEFECT = ("bulk", "host", "perfect", "pristine")  # how folders beside those of defects begin
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
        config_type (`str`): Of frames that tell none.
        state (`tuple[int, int]`): See [`file_state`].
    """

    path: str
    name: str
    owner: str
    one_trajectory: bool
    config_type: str
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
        runs = find_runs(path) if path.is_dir() else [path]
        shared = Path(commonpath([run.parent for run in runs]))
        for run in runs:
            if (where := (owner, realpath(run))) in seen:
                raise InputError(f"{run} is given twice; its frames would be counted twice, and might be divided")
            seen.add(where)
            inside = (Path(name) / readable_name(str(run.relative_to(path)))).as_posix()
            kind = _kind_of_run(run, shared) if path.is_dir() else ""
            files.append(StructureFile(str(run), inside, owner, path.is_dir(), kind, file_state(run)))
    return files


def _kind_of_run(run: Path, shared: Path) -> str:
    """
    The defect that folders name with a charge, or else the folder of a perfect crystal, or the first below what all
    runs share, without a number: v_O of runs/v_O_+2/vasp_std, bulk of runs/v_O/bulk, md of runs/md_03/400K.
    """
    inside = run.parent.relative_to(shared).parts or (shared.resolve().name,)
    named = named_charge(run.parent.resolve().as_posix())
    defect = "" if named is None else named.defect.rpartition("/")[2]
    without = next((part for part in inside if part.lower().startswith(_WITHOUT_DEFECT)), inside[0])
    return defect or re.sub(r"[-_.]?\d+$", "", without) or without


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
    `info["config_type"]`, `info["charge"]`, `info["defect_sites"]` ((S, 3) in Å) and `info["defect_kinds"]` are taken
    over. Which keys hold the labels is decided once for the file. A single atom without neighbours is of the config
    type `IsolatedAtom` and needs no forces.

    Args:
        part ([`StructureFile`]): The file.
        notes (`dict[str, Any]`):
            Gets `skipped`, one line for each thing left out, `isolated`, the energy of each isolated atom, and for a
            VASP run what [`read_run`] tells.
        options ([`ReadingOptions`]): See there.

    Raises:
        [`InputError`]: A file that is missing, empty or not readable, and a frame without forces or with bad data,
            or with labels under other keys than the frames before it.
    """
    path = Path(part.path)
    skip_broken = part.one_trajectory if options.skip_broken is None else options.skip_broken
    skipped: list[str] = notes.setdefault("skipped", [])
    isolated: list[tuple[str, float]] = notes.setdefault("isolated", [])
    search = SiteSearch(options.host)
    keys = _LabelKeys(options, run_kind(path) is not None)
    group_sizes: dict[str, int] = {}
    folder = Path(part.name).parent.as_posix() if part.one_trajectory else None
    before: Atoms | None = None
    start = 0
    for number, atoms in enumerate(_readable_frames(path, notes, skip_broken)):
        index = atoms.info.get("ionic_step", number)
        where = f"{path}, frame {index}"
        try:
            row = _row(atoms, keys, part, where)
            new_trajectory = before is None or not same_trajectory(before, atoms)
            if "defect_sites" not in atoms.info and row["config_type"] != ISOLATED:
                row |= search.columns(atoms, new_trajectory, where)
            group = None if options.group_key is None else _group(atoms, options, group_sizes, where)
        except InputError as error:
            if not skip_broken:
                raise
            skipped.append(str(error))
            continue
        if row["config_type"] == ISOLATED and row["energy"] is not None:
            isolated.append((str(atoms.symbols[0]), row["energy"]))
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


class _LabelKeys:
    """
    Under which keys a file has its labels: those that the options name, or for each kind of label the first candidate
    that the first frame with one has. What another frame has under another key would be of another kind; single atoms
    have their own.
    """

    def __init__(self, options: ReadingOptions, is_run: bool) -> None:
        self.told = {"forces": options.forces_key, "energy": options.energy_key, "stress": options.stress_key}
        energies = RUN_ENERGY_KEYS if is_run else ENERGY_KEYS
        self._candidates = {"forces": FORCE_KEYS, "energy": energies, "stress": STRESS_KEYS}
        self._chosen: dict[str, str] = {}

    def value(self, atoms: Atoms, kind: str, where: str, required: bool) -> tuple[str, Any]:
        """The key and what is there, among arrays, info and calculator results; None where there is nothing."""
        found, told = _labels(atoms), self.told[kind]
        present = [key for key in self._candidates[kind] if found.get(key) is not None]
        if told is not None:
            if found.get(told) is None and required:
                raise InputError(f"{where}: no {told!r}; it has {', '.join(sorted(map(str, found)))}")
            return told, found.get(told)
        if not present and required:
            names = ", ".join(self._candidates[kind])
            raise InputError(f"{where}: no {kind} (looked for {names}); name them with --{kind}-key")
        if not present:
            return "", None
        chosen = self._chosen.setdefault(kind, present[0]) if len(atoms) > 1 else present[0]
        if chosen != present[0]:
            raise InputError(
                f"{where}: {kind} under {present[0]!r}, and before it under {chosen!r}; labels of two kinds are not "
                f"mixed: name the right key with --{kind}-key, or leave such frames out with --skip-broken"
            )
        return chosen, found[chosen]


def _row(atoms: Atoms, keys: _LabelKeys, part: StructureFile, where: str) -> dict[str, Any]:
    """What the frame alone tells."""
    alone = is_isolated(atoms)
    return structure_row(
        atoms,
        forces=keys.value(atoms, "forces", where, required=not alone)[1],
        energy=_energy(atoms, keys, where),
        stress=None if alone else _stress(atoms, keys, where),
        charge=_charge(atoms, part.name, where),
        config_type=ISOLATED if alone else str(atoms.info.get("config_type", part.config_type)),
        source=where,
        **_known_defects(atoms, where),
    )


def _labels(atoms: Atoms) -> dict[str, Any]:
    results = {} if atoms.calc is None else atoms.calc.results  # raw: `get_forces` would apply constraints
    return {**atoms.info, **atoms.arrays, **results}


def _energy(atoms: Atoms, keys: _LabelKeys, where: str) -> float | None:
    _, value = keys.value(atoms, "energy", where, required=keys.told["energy"] is not None)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: the energy {reprlib.repr(value)} is not a number") from error


def _charge(atoms: Atoms, name: str, where: str) -> float | None:
    """What the frame tells, or else the names of its file and folders."""
    value = atoms.info.get("charge", atoms.info.get("charge_state"))
    if value is None:
        named = named_charge(name)
        return None if named is None else float(named.charge)
    from ...feature_extraction_adapt import charge_of  # with transformers, which takes seconds and few files need

    try:
        return charge_of({"charge": value})
    except ValueError as error:
        raise InputError(f"{where}: {str(error).partition(': ')[2]}") from None


def _stress(atoms: Atoms, keys: _LabelKeys, where: str) -> np.ndarray | None:
    """(3, 3) in eV/Å³; None where the file has none, or the structure is not periodic in all three directions."""
    told = keys.told["stress"]
    if told == "none" or not atoms.pbc.all():
        return None
    name, found = keys.value(atoms, "stress", where, required=told is not None)
    if found is None:
        return None
    remedy = "name the right one with --stress-key, or leave it out with --stress-key none"
    try:
        value = np.asarray(found, dtype=np.float64)
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
