"""
Structures of pymatgen and doped, in and out. Their JSON is read as the plain values that it is: neither package is
needed for it, and nothing that a file names is imported.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.vasp import set_constraints

from ..errors import InputError, one_line

_MODULE = "@module"  # the key by which these packages mark an object
_UNDECORATED = 1e-3  # elementary charges; what differs less from the sum of the oxidation states is that sum


class NoStructureError(InputError):
    """A file that is JSON, but of something else."""


def as_atoms(structure: Any) -> Atoms:
    """
    Args:
        structure (`Any`):
            `ase.Atoms`, `pymatgen` `Structure` or `Molecule`, or a defect entry of `pymatgen` or `doped`, of which the
            supercell is taken. What is charged has its charge in `info["charge"]`, where models look for it; oxidation
            states that add up to the charge are decoration, and the structure is neutral.

    Raises:
        [`InputError`]: None of these, or a disordered structure.
    """
    if isinstance(structure, Atoms):
        return structure
    charge = getattr(structure, "charge_state", None)
    if hasattr(structure, "sc_entry"):
        structure = structure.sc_entry.structure
    if hasattr(structure, "to_ase_atoms"):
        states = [
            getattr(specie, "oxi_state", None) for one in getattr(structure, "sites", ()) for specie in one.species
        ]
        charge = _true_charge(getattr(structure, "charge", 0), states) if charge is None else charge
        if not getattr(structure, "is_ordered", True):
            raise InputError("a disordered structure; give one with an atom on each site")
        atoms = bare_copy(structure.to_ase_atoms(msonable=False))
        if charge:
            atoms.info["charge"] = charge
        return atoms
    raise InputError(f"a {type(structure).__name__} is no structure; give ase.Atoms or a pymatgen Structure")


def bare_copy(atoms: Atoms) -> Atoms:
    """The structure with its constraints and magnetic moments, and nothing else."""
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, constraint=atoms.constraints)
    if atoms.has("initial_magmoms"):
        copy.set_initial_magnetic_moments(atoms.get_initial_magnetic_moments())
    return copy


def _true_charge(charge: float | None, oxidation_states: Sequence[float | None]) -> float:
    """Not what the sites are decorated with: pymatgen counts their oxidation states as the charge of the structure."""
    decorated = [state for state in oxidation_states if state is not None]
    return 0.0 if decorated and abs(sum(decorated) - (charge or 0)) < _UNDECORATED else float(charge or 0)


def as_structure(atoms: Atoms) -> Any:
    """
    `atoms` as a `pymatgen` `Structure`, or as a `Molecule` where they are not periodic; fixed atoms stay fixed, and
    magnetic moments and the charge in `info` stay.

    Raises:
        [`InputError`]: `pymatgen` is not installed.
    """
    try:
        from pymatgen.io.ase import AseAtomsAdaptor
    except ImportError:
        raise InputError("pymatgen is not installed: pip install pymatgen") from None
    bare = bare_copy(atoms)
    if not bare.pbc.any():
        return AseAtomsAdaptor.get_molecule(bare)
    structure = AseAtomsAdaptor.get_structure(bare)
    if atoms.info.get("charge"):
        structure.set_charge(atoms.info["charge"])
    return structure


def holds_objects(path: Path) -> bool:
    """Whether a file is JSON as pymatgen and doped write it, rather than a database of ASE."""
    if not path.name.endswith((".json", ".json.gz")):
        return False
    return '"@module"' in _text(path)


def _text(path: Path) -> str:
    """What is in a file; what a packed one holds, if it is one."""
    opened = gzip.open if path.name.endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8", errors="replace") as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error


def read_objects(path: Path) -> dict[str, Atoms]:
    """
    All structures in a JSON file of pymatgen or doped (one object, a list, a mapping of any depth, or the
    `DefectsGenerator` of doped), by their name there or their number. `info["charge"]` holds the charge of those that
    have one; oxidation states that add up to it are decoration.

    Raises:
        [`NoStructureError`]: The file holds no structure.
        [`InputError`]: The file cannot be read, or a structure in it is none of ours.
    """
    try:
        structures = {name: _atoms(one) for name, one in _named("", json.loads(_text(path)))}
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    except Exception as error:  # whatever a file lacks
        what = f"{type(error).__name__}: {one_line(error)}" if isinstance(error, KeyError) else one_line(error)
        raise InputError(f"{path} cannot be read: {what}") from error
    if not structures:
        raise NoStructureError(f"{path} holds no structure: what is in it is no structure of pymatgen or doped")
    return structures


def read_entries(path: Path) -> dict[str, dict[str, Any]]:
    """The defect entries in a JSON file of doped, as they stand there, by their names as in [`read_objects`]."""
    return {name: dict(one) for name, one in _named("", json.loads(_text(path))) if one.get("sc_entry")}


def _named(name: str, plain: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The structures in decoded JSON, and defect entries, by their name; a single one has the empty name."""
    if isinstance(plain, list):
        plain = {str(number): one for number, one in enumerate(plain)}
    if not isinstance(plain, Mapping):
        return
    if plain.get("sc_entry") or "sites" in plain:
        yield name, plain
    elif _MODULE not in plain or "defect_entries" in plain:
        for key, one in plain.get("defect_entries", plain).items():
            yield from _named(f"{name}/{key}" if name else str(key), one)
    elif "structure" in plain:  # an entry of pymatgen
        yield name, plain["structure"]


def _atoms(plain: Mapping[str, Any]) -> Atoms:
    """Of a structure or a defect entry."""
    charge = plain.get("charge_state")
    if plain.get("sc_entry"):
        plain = plain["sc_entry"]["structure"]
    sites = plain["sites"]
    if any(len(site["species"]) != 1 or site["species"][0].get("occu", 1) != 1 for site in sites):
        raise InputError("a disordered structure; give one with an atom on each site")
    lattice = plain.get("lattice") or {"pbc": False, "matrix": None}
    atoms = Atoms(
        [site["species"][0]["element"] for site in sites],
        [_position(site, lattice["matrix"]) for site in sites],
        cell=lattice["matrix"],
        pbc=lattice.get("pbc", True),
    )
    states = [site["species"][0].get("oxidation_state") for site in sites]
    if charge := _true_charge(plain.get("charge"), states) if charge is None else charge:
        atoms.info["charge"] = charge
    properties = [site.get("properties") or {} for site in sites]
    if all("selective_dynamics" in one for one in properties):
        set_constraints(atoms, ~np.array([one["selective_dynamics"] for one in properties], dtype=bool))
    if any(isinstance(one.get("magmom"), int | float) for one in properties):
        atoms.set_initial_magnetic_moments([one.get("magmom") or 0.0 for one in properties])
    return atoms


def _position(site: Mapping[str, Any], lattice: Any) -> np.ndarray:
    return np.array(site["xyz"] if "xyz" in site else np.array(site["abc"]) @ np.array(lattice))
