"""The folder that relaxations write: which command it is of, a line for each that has ended, and last structures."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixConstraint, FixedLine, FixedPlane, FixScaled
from ase.io.formats import ioformats
from ase.io.jsonio import encode

from ..data.read.frames import CONSTRAINTS, read_frames
from ..errors import InputError, one_line
from ..feature_extraction_adapt import charge_of
from ..files import require_empty_folder, whole_file, write_whole
from ..hub_access import is_local
from ..tables import csv_rows, csv_text, format_table
from .doubt import UNUSUAL
from .exchange import as_structure, read_objects
from .relaxation import RelaxationResult

RECORD = "relax.json"
SKIPPED = "skipped.csv"
_OPTIONS = (
    *("model", "energy_model", "revision", "energy_revision", "energy_subfolder"),
    *("fmax", "finish", "steps", "num_images", "dtype", "cell"),
)
# A ranking is made anew each time, so it may have another host.
_OF_THE_RANKING = ("host", "chemical_potentials")
RECORDED = (*_OPTIONS, *_OF_THE_RANKING)
# What earlier versions did, whose records do not tell it.
_DONE_BEFORE = {"cell": False, "energy_subfolder": None, "energy_revision": None}
_ADDED = {"energy_uncertainty_ev", "atom_doubt"}  # columns that their summaries do not have

CSV_COLUMNS = (
    "name",
    "atoms",
    "status",
    "steps",
    "fmax_ev_per_ang",
    "largest_displacement_ang",
    "displaced_atoms",
    "delta_q_amu_half_ang",
    "energy_ev",
    "energy_uncertainty_ev",
    "energy_change_ev",
    "forces_std_ev_per_ang",
    "atom_doubt",
    "findings",
)

Line = Mapping[str, str]
BETWEEN = " | "  # findings, which are sentences with commas and semicolons

_PYMATGEN = "pymatgen"  # a format that ASE does not write
_ARRAYS = {"initial_magmoms": "magnetic moments", "initial_charges": "charges of atoms", "tags": "tags"}  # that stay


def record_of(
    options: Mapping[str, Any], structures: Mapping[str, Atoms], recorded: Sequence[str] = RECORDED
) -> dict[str, Any]:
    """Those `options` of the command that decide its results, called `recorded`, and a hash of the structures."""
    digest = hashlib.sha256()
    for name, atoms in structures.items():
        digest.update(name.encode())
        for values in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            digest.update(np.ascontiguousarray(values).tobytes())
        digest.update(repr([constraint.todict() for constraint in atoms.constraints]).encode())
        if charge := charge_of(atoms):
            digest.update(repr(charge).encode())
    chosen = {name: options[name] for name in recorded}
    return chosen | {"structures": len(structures), "sha256": digest.hexdigest()}


def read_record(output: Path, file: str = RECORD) -> dict[str, Any]:
    """What the record of a command holds; nothing where there is none. Raises [`InputError`] where it is damaged."""
    path = output / file
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}; name a new folder") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} is no record of a command; name a new folder")
    return record


def require_same_command(output: Path, record: Mapping[str, Any], file: str = RECORD) -> None:
    """Raises [`InputError`] unless `output` is empty, can be made, or holds the beginnings of the same command."""
    there = read_record(output, file)
    if not there:
        require_empty_folder(output)
        return
    if file == RECORD:
        there = {**_DONE_BEFORE, "finish": there.get("fmax"), **there}
    different = [name for name in record if name not in _OF_THE_RANKING and there.get(name) != record[name]]
    if different:
        name = different[0]
        what = f"{name} {there.get(name)}, not {record[name]}"
        if name in ("structures", "sha256"):
            what = "other structures"
        remedy = f"give --finish {there['finish']:g}, or name" if different == ["finish"] else "name"
        raise InputError(f"{output} holds results of another command ({what}); {remedy} a new folder")


def write_record(output: Path, record: Mapping[str, Any], file: str = RECORD) -> None:
    """Writes the record of a command into its folder, which may be another's by now: see [`require_same_command`]."""
    require_same_command(output, record, file)
    write_whole(output / file, json.dumps(record, indent=2) + "\n")


def model_names(models: Iterable[Any]) -> str:
    """What models are called on pages and in figures: folders by their last name, as where they are is nobody's
    business there."""
    return " + ".join(Path(str(one)).name if is_local(str(one)) else str(one) for one in models)


def write_skipped(output: Path, skipped: Mapping[str, str]) -> None:
    """Writes `skipped.csv`: a line for each structure that is not relaxed, and why; none where there is none."""
    if skipped:
        write_whole(output / SKIPPED, csv_text([("name", "reason"), *skipped.items()]))
    else:
        (output / SKIPPED).unlink(missing_ok=True)


class SummaryFile:
    """
    The CSV file at `path`. Lines are added whole, so that an interruption loses none and several processes can share
    it; what a kill left of a line is dropped when the file is opened again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self) -> None:
        """Writes the header; of a file that exists, keeps the lines that are whole."""
        lines = self.lines() if self.path.is_file() else []
        write_whole(self.path, csv_text([CSV_COLUMNS, *([line[name] for name in CSV_COLUMNS] for line in lines)]))

    def names(self) -> set[str]:
        """The structures whose relaxation has ended; none where there is no file yet."""
        return {line["name"] for line in self.lines()} if self.path.is_file() else set()

    def append(self, name: str, result: RelaxationResult) -> None:
        energy = None if result.energy_change is None else result.atoms.get_potential_energy()
        moved = (result.largest_displacement, result.displaced_atoms, result.delta_q)
        energies = (energy, result.energy_uncertainty, result.energy_change)
        numbers = (result.fmax, *moved, *energies, result.forces_std, result.atom_doubt)  # None is an empty cell
        findings = BETWEEN.join(result.findings)
        cells = (name, len(result.atoms), result.status, result.steps, *numbers, findings)
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write(csv_text([cells]))
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from error

    def lines(self) -> list[Line]:
        """One mapping from `CSV_COLUMNS` to text for each relaxation that has ended, in the order of their ends."""
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        rows: list[Any] = list(csv_rows(whole))
        if rows and (set(rows[0]) - {None}) | _ADDED != set(CSV_COLUMNS):
            raise InputError(f"{self.path} is no summary of relax.py")
        added = dict.fromkeys(_ADDED, "")
        return [added | row for row in rows if None not in row and None not in row.values()]


def summary_table(lines: Iterable[Line]) -> str:
    """One line a relaxation; below it, where and when each one left the trained region."""
    lines = list(lines)
    columns = {
        "fmax_ev_per_ang": "fmax (eV/Å)",
        "largest_displacement_ang": "moved (Å)",
        "delta_q_amu_half_ang": "ΔQ (amu^1/2 Å)",
        "energy_change_ev": "ΔE (eV)",
        "energy_uncertainty_ev": "± E (eV)",
        "forces_std_ev_per_ang": "spread (eV/Å)",
        "atom_doubt": "doubt",
    }
    optional = ("energy_uncertainty_ev", "forces_std_ev_per_ang", "atom_doubt")
    numbers = [name for name in columns if name not in optional or any(line[name] for line in lines)]
    header = ["name", "atoms", "status", "steps", *(columns[name] for name in numbers)]
    rows = [
        [
            *(line[name] for name in ("name", "atoms", "status", "steps")),
            *(f"{float(line[name]):.3f}" if line[name] else "-" for name in numbers),
        ]
        for line in lines
    ]
    findings = [
        f"{line['name']}: {finding}" for line in lines for finding in line["findings"].split(BETWEEN) if finding
    ]
    findings += [
        f"{line['name']}: an atom is less like those of the training than 99 of 100 of these (doubt "
        f"{float(line['atom_doubt']):.2f}), so its energy may be wrong by more than is said"
        for line in lines
        if line["atom_doubt"] and float(line["atom_doubt"]) > UNUSUAL
    ]
    return "\n".join([format_table(header, rows), *findings])


def ended_line(name: str, result: RelaxationResult) -> str:
    """One relaxation, for a log."""
    change = "" if result.energy_change is None else f", ΔE {result.energy_change:.3f} eV"
    return f"{name}: {result.status} after {result.steps} steps, fmax {result.fmax:.3f} eV/Å{change}"


def write_result(name: str, result: RelaxationResult, output: Path, start: Atoms | None = None) -> None:
    """
    Writes `NAME.relaxed.extxyz`, with the status in its comment line; it appears under its name only as a whole.

    Args:
        start (`Atoms`, *optional*):
            The structure that was relaxed: its charge, magnetic moments and tags go along. Constraints that the format
            has no place for are in the comment line, from which [`read_frames`] makes constraints again.
    """
    atoms = _with_belongings(result.atoms, start)
    atoms.info["status"] = result.status
    path = result_file(name, output)
    with whole_file(path) as unfinished:
        ase.io.write(unfinished, atoms, format="extxyz")


def _with_belongings(relaxed: Atoms, start: Atoms | None) -> Atoms:
    """A copy with all that extended XYZ can be made to hold of the structure that was relaxed."""
    atoms = relaxed.copy()
    atoms.calc = relaxed.calc
    if start is not None:
        atoms.info |= {"charge": start.info["charge"]} if "charge" in start.info else {}
        for array in _ARRAYS.keys() & start.arrays.keys():
            atoms.set_array(array, start.arrays[array])
    if not all(isinstance(one, FixAtoms | FixCartesian) for one in relaxed.constraints):
        atoms.info[CONSTRAINTS] = encode([one.todict() for one in relaxed.constraints])
        atoms.set_constraint([_along_axes(one, atoms) or one for one in relaxed.constraints])
    return atoms


def _along_axes(constraint: FixConstraint, atoms: Atoms) -> FixCartesian | None:
    """The same as a constraint of Cartesian directions, which any reader of extended XYZ knows; None where there is
    none."""
    if isinstance(constraint, FixScaled):
        mask, axes = constraint.mask, atoms.cell.array
    elif isinstance(constraint, FixedPlane | FixedLine):
        normal = np.isclose(np.abs(constraint.dir), 1.0)
        mask, axes = normal if isinstance(constraint, FixedPlane) else ~normal, np.diag(constraint.dir)
        if normal.sum() != 1:
            return None
    else:
        return None
    return FixCartesian(constraint.index, mask) if np.allclose(axes, np.diag(np.diag(axes))) else None


def result_file(name: str, output: Path) -> Path:
    """Where the last structure of a relaxation is."""
    return output / f"{name}.relaxed.extxyz"


def make_folders(output: Path, names: Iterable[str]) -> None:
    """Makes the folders of results whose names have any, as those of structures from a tree do."""
    for folder in {result_file(name, output).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)


def trajectory_file(name: str, output: Path) -> Path:
    """Where every step of a relaxation is."""
    return output / f"{name}.traj.extxyz"


def write_formats(format_name: str, names: Iterable[str], output: Path) -> None:
    """Last structures in another format too, of relaxations before an interruption as well."""
    for name in names:
        path = output / f"{name}.relaxed.{_ending(format_name)}"
        if not path.exists() and result_file(name, output).is_file():
            write_as(format_name, path, next(iter(read_frames(result_file(name, output), "-1", "extxyz"))))


def not_held(structures: Mapping[str, Atoms], format_name: str) -> list[str]:
    """
    What a format of [`require_writable_format`] has no place for, a line for each thing that some of the structures
    have; found by writing and reading them.
    """
    lost: dict[str, list[str]] = {}
    for name, atoms in structures.items():
        for thing in _lost(atoms, format_name):
            lost.setdefault(thing, []).append(name)
    return [
        f"{format_name} files do not hold the {thing} of {names[0]}"
        + (f" and {len(names) - 1} others" if len(names) > 1 else "")
        + "; NAME.relaxed.extxyz does"
        for thing, names in lost.items()
    ]


def _lost(atoms: Atoms, format_name: str) -> list[str]:
    has = {words: atoms.arrays[array] for array, words in _ARRAYS.items() if np.any(atoms.arrays.get(array, 0))}
    has |= {"charge": atoms.info["charge"]} if atoms.info.get("charge") else {}
    if not has and not atoms.constraints:
        return []
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"structure.{_ending(format_name)}"
        write_as(format_name, path, atoms)
        try:
            back = read_objects(path)[""] if format_name == _PYMATGEN else next(read_frames(path, "-1", format_name))
        except Exception:  # formats that are only written, and whatever their readers raise
            return ["constraints"] * bool(atoms.constraints) + list(has)
    there: dict[str, Any] = {words: back.arrays.get(array) for array, words in _ARRAYS.items()} | {
        "charge": back.info.get("charge")
    }
    lost = ["constraints"] * (not _as_constrained(atoms, back))
    return lost + [words for words, value in has.items() if not np.array_equal(value, there[words])]


def _as_constrained(atoms: Atoms, other: Atoms) -> bool:
    """Whether the constraints of both leave the same of any forces."""
    if not np.array_equal(atoms.numbers, other.numbers):
        return False
    forces = np.random.default_rng(0).normal(size=(len(atoms), 3))
    left = [forces.copy(), forces.copy()]
    for one, its_forces in zip((atoms, other), left, strict=True):
        for constraint in one.constraints:
            constraint.adjust_forces(one, its_forces)
    return np.allclose(left[0], left[1])


def require_writable(name: str, atoms: Atoms, format_name: str) -> None:
    """Raises [`InputError`] unless the format can hold the structure called `name`."""
    with TemporaryDirectory() as folder:
        write_as(format_name, Path(folder) / f"{Path(name).name}.{_ending(format_name)}", atoms)


def write_as(format_name: str, path: Path, atoms: Atoms) -> None:
    """
    Writes a structure in a format of [`require_writable_format`], without constraints that it cannot hold.

    Raises:
        [`InputError`]: The format cannot hold such a structure.
    """
    try:
        with whole_file(path) as unfinished:
            if format_name == _PYMATGEN:
                as_structure(atoms).to(str(unfinished), fmt="json")
            else:
                ase.io.write(unfinished, atoms, format=format_name)
    except Exception as error:  # each writer of ASE raises what it likes
        if atoms.constraints:
            atoms = atoms.copy()
            atoms.set_constraint()
            return write_as(format_name, path, atoms)
        raise InputError(f"{path.name} cannot be written as {format_name}: {one_line(error)}") from error


def _ending(format_name: str) -> str:
    """Of the files in a format, so that who reads them knows it."""
    return "json" if format_name == _PYMATGEN else format_name


def require_writable_format(format_name: str) -> None:
    """Raises [`InputError`] unless ASE writes the format, or it is `pymatgen` and that is installed."""
    if format_name == _PYMATGEN and importlib.util.find_spec("pymatgen") is None:
        raise InputError("--format: pymatgen is not installed: pip install pymatgen")
    if format_name != _PYMATGEN and not (format_name in ioformats and ioformats[format_name].can_write):
        raise InputError(f"--format: {format_name!r} is no format that ASE writes, such as cif or vasp, nor pymatgen")
