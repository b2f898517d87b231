"""One row of the data set: its columns, its validation, and the way back to `ase.Atoms`.

Units everywhere: Å, eV, eV/Å, eV/Å³. A row carries forces, an energy, or both, and perhaps a stress; a label that the
source lacks is null, never zero.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.geometry import wrap_positions
from datasets import Features, List, Value

from ..crystal.contacts import coinciding_atoms, contacts
from ..crystal.symmetry import atoms_of
from ..errors import InputError
from .validation import PER_ATOM, FlatRows, first_fault

Target = Literal["forces", "energy", "energy_and_forces", "stress"]  # which labels of a row are read


# What is read where data sets of earlier versions lack a column.
LATER_COLUMNS: dict[str, Any] = {
    **{"defect_kinds": [], "subset": None, "stress": None, "charge": None},
    **{"source_name": "", "source_weight": 1.0},
}
ISOLATION = 6.0  # Å; an atom whose own images are farther away is alone


_FAR = 200.0  # Å, where float32 has steps of 0.00002 Å


def _vectors(dtype: str) -> List:
    return List(List(Value(dtype), length=3))


STRUCTURE_FEATURES = Features(
    {
        "atomic_numbers": List(Value("uint8")),
        "positions": _vectors("float32"),
        "cell": List(List(Value("float64"), length=3), length=3),
        "pbc": List(Value("bool"), length=3),
        "forces": _vectors("float32"),
        "energy": Value("float64"),
        "stress": _vectors("float64"),
        "charge": Value("float32"),
        "importance_weights": List(Value("float32")),
        "defect_sites": _vectors("float64"),
        "defect_kinds": List(Value("string")),
        "config_type": Value("string"),
        "trajectory": Value("string"),
        "subset": Value("float32"),
        "source": Value("string"),
        "source_name": Value("string"),
        "source_weight": Value("float32"),
    }
)


def structure_row(
    atoms: Atoms,
    forces: np.ndarray | None,
    energy: float | None = None,
    *,
    stress: np.ndarray | None = None,
    charge: float | None = None,
    defect_sites: Sequence[Sequence[float]] | np.ndarray = (),
    defect_kinds: Sequence[str] = (),
    importance_weights: np.ndarray | None = None,
    config_type: str = "",
    trajectory: str = "",
    source: str = "",
) -> dict[str, Any]:
    """One labelled structure, checked, as a row of `STRUCTURE_FEATURES`.

    Args:
        atoms (`Atoms`):
            Numbers, positions (Å), cell (Å) and periodicity; constraints and calculator are not looked at.
        forces (`np.ndarray` of shape `(N, 3)`, *optional*): In eV/Å, or None where the source has only an energy.
        energy (`float`, *optional*): Total energy in eV, or None where the source has only forces.
        stress (`np.ndarray` of shape `(3, 3)`, *optional*):
            In eV/Å³, symmetric and positive under tension as in ASE, or None where the source has none.
        charge (`float`, *optional*): Total charge in elementary charges, or None where the source tells none: neutral.
        defect_sites (`Sequence[Sequence[float]]` or `np.ndarray` of shape `(S, 3)`, defaults to `()`):
            Positions in Å; empty when none is known.
        defect_kinds (`Sequence[str]`, defaults to `()`):
            What each of them is, such as v_Si, Si_i, C_Si; empty when that is not known.
        importance_weights (`np.ndarray` of shape `(N,)`, *optional*):
            Published weights of the atoms in the loss, or None.
        config_type (`str`, defaults to `""`): What kind of structure it is, for error tables.
        trajectory (`str`, defaults to `""`):
            Structures of one trajectory share this name and never straddle two splits.
        source (`str`, defaults to `""`): `"file#frame"`; named in every error.

    Raises:
        [`InputError`]: Naming source and atom (counted from 0), for an unknown element, a number that is not finite,
            arrays of the wrong length, a stress without a volume, a periodic direction without cell vector, a cell
            without volume, two atoms at the same place, or a structure without any label.
    """
    where = source.replace("#", ", frame ") or "structure"
    if len(atoms) and forces is None and energy is None:
        raise InputError(f"{where}: neither forces nor energy; nothing can be learned from it")
    row: dict[str, Any] = {
        "atomic_numbers": atoms.numbers,
        "positions": _per_atom(_near(atoms), "positions", atoms, where),
        "cell": np.array(atoms.cell, dtype=np.float64),
        "pbc": np.array(atoms.pbc, dtype=bool),
        "forces": None if forces is None else _per_atom(forces, "forces", atoms, where),
        "energy": None if energy is None else float(energy),
        "stress": None if stress is None else np.asarray(stress, dtype=np.float64),
        "charge": None if charge is None else float(charge),
        "importance_weights": None,
        "defect_sites": np.asarray(defect_sites, dtype=np.float64).reshape(-1, 3),
        "defect_kinds": list(defect_kinds),
        "config_type": config_type,
        "trajectory": trajectory,
        "subset": None,
        "source": source,
        "source_name": "",
        "source_weight": 1.0,
    }
    if importance_weights is not None:
        row["importance_weights"] = _per_atom(importance_weights, "importance_weights", atoms, where)
    if (problem := _problem(row, atoms)) is not None:
        raise InputError(f"{where}: {problem}")
    return row | {"atomic_numbers": atoms.numbers.astype(np.uint8)}


def atoms_from_row(row: dict[str, Any]) -> Atoms:
    """
    The structure of a row as `ase.Atoms` (Å), without calculator; `info` has config_type, trajectory, source and,
    where there is one, the charge.
    """
    atoms = atoms_of(row)
    atoms.info |= {name: row[name] for name in ("config_type", "trajectory", "source")}
    return atoms


def is_isolated(atoms: Atoms) -> bool:
    """Whether this is a single atom without neighbours, its periodic images included."""
    return len(atoms) == 1 and not len(contacts(atoms, ISOLATION)[0])


def _problem(row: dict[str, Any], atoms: Atoms) -> str | None:
    """What every row must be like, and beyond that what is asked of those that are made here."""
    if (fault := first_fault(FlatRows.of_row(row))) is not None:
        return fault[1]
    if len(row["defect_kinds"]) not in (0, len(row["defect_sites"])):
        return f"{len(row['defect_kinds'])} defect kinds for {len(row['defect_sites'])} defect sites"
    if row["charge"] is not None and not np.isfinite(row["charge"]):
        return "the charge is not a finite number"
    if row["stress"] is not None and not row["pbc"].all():
        return "a stress of a structure that is not periodic in all three directions"
    if not np.isfinite(row["cell"]).all():  # also along directions that are not periodic
        return "cell holds a value that is not a finite number"
    for axis in np.flatnonzero(row["pbc"]):
        if not row["cell"][axis].any():
            return f"periodic along cell vector {'abc'[axis]}, which is zero"
    if (pair := coinciding_atoms(atoms)) is not None:
        return f"atoms {pair[0]} and {pair[1]} are at the same place"
    return None


def _near(atoms: Atoms) -> np.ndarray:
    """Positions that are rounded to float32 without harm: those of atoms far from the origin, in the cell."""
    if not np.abs(atoms.positions).max(initial=0.0) > _FAR:
        return atoms.positions
    with np.errstate(invalid="ignore"):
        return wrap_positions(atoms.positions, atoms.cell, atoms.pbc)


def _per_atom(values: np.ndarray, name: str, atoms: Atoms, where: str) -> np.ndarray:
    """A column with one number or vector for each atom, in float32; what overflows becomes infinite."""
    array, one = np.asarray(values), PER_ATOM[name]
    if array.shape != (len(atoms), *([3] if name != "importance_weights" else [])):
        raise InputError(f"{where}: {one}s of shape {array.shape} for {len(atoms)} atoms; expected one {one} per atom")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
