"""One row of the data set: its columns, its validation, and the way back to `ase.Atoms`.

Units everywhere: Å, eV, eV/Å. A row carries forces, an energy, or both; a label that the source lacks is null, never
zero.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from ase import Atoms
from datasets import Features, List, Value

from ..crystal.contacts import coinciding_atoms
from ..crystal.symmetry import atoms_of
from ..elements_adapt import descriptors
from ..errors import InputError
from ..feature_extraction_adapt import cell_fault

Target = Literal["forces", "energy", "energy_and_forces"]  # which labels of a row are read


# What is read where data sets of earlier versions lack a column.
LATER_COLUMNS: dict[str, Any] = {"defect_kinds": [], "subset": None}


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
        "importance_weights": List(Value("float32")),
        "defect_sites": _vectors("float64"),
        "defect_kinds": List(Value("string")),
        "config_type": Value("string"),
        "trajectory": Value("string"),
        "subset": Value("float32"),
        "source": Value("string"),
    }
)


def structure_row(
    atoms: Atoms,
    forces: np.ndarray | None,
    energy: float | None = None,
    *,
    defect_sites: Sequence[Sequence[float]] | np.ndarray = (),
    defect_kinds: Sequence[str] = (),
    importance_weights: np.ndarray | None = None,
    config_type: str = "",
    trajectory: str = "",
    source: str = "",
) -> dict[str, Any]:
    """Validates one labelled structure and returns it as a row of `STRUCTURE_FEATURES`.

    Args:
        atoms: numbers, positions (Å), cell (Å) and periodicity; constraints and calculator are not looked at.
        forces: (N, 3) in eV/Å, or None where the source has only an energy.
        energy: total energy in eV, or None where the source has only forces.
        defect_sites: (S, 3) positions in Å; empty when none is known.
        defect_kinds: what each of them is, such as v_Si, Si_i, C_Si; empty when that is not known.
        importance_weights: (N,) published weights of the atoms in the loss, or None.
        config_type: what kind of structure it is, for error tables.
        trajectory: structures of one trajectory share this name and never straddle two splits.
        source: `"file#frame"`; named in every error.

    Raises:
        InputError: naming source and atom (counted from 0), for an unknown element, a number that is not finite,
            arrays of the wrong length, a periodic direction without cell vector, a cell without volume, two atoms at
            the same place, or a structure without any label.
    """
    where = source.replace("#", ", frame ") or "structure"
    if len(atoms) == 0:
        raise InputError(f"{where}: no atoms")
    if forces is None and energy is None:
        raise InputError(f"{where}: neither forces nor energy; nothing can be learned from it")
    try:
        descriptors(atoms.numbers)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error

    row: dict[str, Any] = {
        "atomic_numbers": atoms.numbers.astype(np.uint8),
        "positions": _per_atom(atoms.positions, (3,), "position", atoms, where),
        "cell": np.array(atoms.cell, dtype=np.float64),
        "pbc": np.array(atoms.pbc, dtype=bool),
        "forces": None if forces is None else _per_atom(forces, (3,), "force", atoms, where),
        "energy": None if energy is None else float(energy),
        "importance_weights": None,
        "defect_sites": np.asarray(defect_sites, dtype=np.float64).reshape(-1, 3),
        "defect_kinds": list(defect_kinds),
        "config_type": config_type,
        "trajectory": trajectory,
        "subset": None,
        "source": source,
    }
    if len(defect_kinds) not in (0, len(row["defect_sites"])):
        raise InputError(f"{where}: {len(defect_kinds)} defect kinds for {len(row['defect_sites'])} defect sites")
    if importance_weights is not None:
        row["importance_weights"] = _per_atom(importance_weights, (), "importance weight", atoms, where)
        if (row["importance_weights"] < 0).any():
            raise InputError(f"{where}: an importance weight is negative")
    for name in ("cell", "defect_sites"):
        if not np.isfinite(row[name]).all():
            raise InputError(f"{where}: {name} holds a value that is not a finite number")
    if row["energy"] is not None and not np.isfinite(row["energy"]):
        raise InputError(f"{where}: the energy is not a finite number")
    for axis in np.flatnonzero(row["pbc"]):
        if not row["cell"][axis].any():
            raise InputError(f"{where}: periodic along cell vector {'abc'[axis]}, which is zero")
    if (fault := cell_fault(row["cell"][row["pbc"]])) is not None:
        raise InputError(f"{where}: {fault}")
    if (pair := coinciding_atoms(atoms)) is not None:
        raise InputError(f"{where}: atoms {pair[0]} and {pair[1]} are at the same place")
    return row


def atoms_from_row(row: dict[str, Any]) -> Atoms:
    """The structure of a row as `ase.Atoms` (Å), without calculator; `info` has config_type, trajectory and source."""
    atoms = atoms_of(row)
    atoms.info = {name: row[name] for name in ("config_type", "trajectory", "source")}
    return atoms


def _per_atom(values: np.ndarray, shape: tuple[int, ...], name: str, atoms: Atoms, where: str) -> np.ndarray:
    """`values` as (N, *shape) float32; checked for length and finite numbers before and after the rounding."""
    array = np.asarray(values)
    if array.shape != (len(atoms), *shape):
        raise InputError(
            f"{where}: {name}s of shape {array.shape} for {len(atoms)} atoms; expected one {name} per atom"
        )
    with np.errstate(over="ignore"):  # overflow becomes inf, which is reported below
        array = array.astype(np.float32)
    bad = ~np.isfinite(array).reshape(len(atoms), -1).all(axis=1)
    if bad.any():
        atom = int(np.flatnonzero(bad)[0])
        raise InputError(f"{where}: the {name} of atom {atom} ({atoms.symbols[atom]}) is not a finite number")
    return array
