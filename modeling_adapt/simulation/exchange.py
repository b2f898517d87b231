"""Structures of pymatgen and doped, in and out; neither package is needed for anything else."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase import Atoms

from ..errors import InputError, one_line

_TRUSTED = {"datetime", "doped", "numpy", "pymatgen", "uuid"}


def as_atoms(structure: Any) -> Atoms:
    """
    Args:
        structure: `ase.Atoms`, `pymatgen` `Structure` or `Molecule`, or a defect entry of `pymatgen` or `doped`, of
            which the supercell is taken.

    Raises:
        [`InputError`]: none of these, or a charged defect: models know neutral ones only.
    """
    if isinstance(structure, Atoms):
        return structure
    if hasattr(structure, "sc_entry"):
        charge = getattr(structure, "charge_state", 0)
        if charge:
            raise InputError(f"a defect of charge {charge:+d}; models are trained on neutral defects only")
        structure = structure.sc_entry.structure
    if hasattr(structure, "to_ase_atoms"):
        plain = structure.to_ase_atoms(msonable=False)
        return Atoms(plain.numbers, plain.positions, cell=plain.cell, pbc=plain.pbc, constraint=plain.constraints)
    raise InputError(f"a {type(structure).__name__} is no structure; give ase.Atoms or a pymatgen Structure")


def as_structure(atoms: Atoms) -> Any:
    """`atoms` as a `pymatgen` `Structure`. Raises [`InputError`] where pymatgen is not installed."""
    try:
        from pymatgen.core import Structure
    except ImportError:
        raise InputError("pymatgen is not installed: pip install pymatgen") from None
    return Structure(atoms.cell.array, list(atoms.symbols), atoms.positions, coords_are_cartesian=True)


def holds_objects(path: Path) -> bool:
    """Whether a file is JSON as pymatgen and doped write it, rather than a database of ASE."""
    if not path.name.endswith((".json", ".json.gz")):
        return False
    return path.name.endswith(".gz") or '"@module"' in path.read_text(encoding="utf-8", errors="replace")


def _modules(plain: Any) -> set[str]:
    """The packages that decoded JSON would import: a file may name any."""
    if isinstance(plain, list):
        return set().union(*map(_modules, plain))
    if not isinstance(plain, dict):
        return set()
    named = {str(plain["@module"]).split(".")[0]} if "@module" in plain else set()
    return named.union(*map(_modules, plain.values()))


def read_objects(path: Path) -> dict[str, Atoms]:
    """
    All structures in a JSON file of pymatgen or doped (one object, a list, a mapping, or the `DefectsGenerator` of
    doped), by their name there or their number. Charged defects of a mapping that has neutral ones are left out.

    Raises:
        [`InputError`]: the file cannot be read, holds no structure, or the package that it needs is missing.
    """
    try:
        from monty.json import MontyDecoder
    except ImportError:
        raise InputError(f"{path} needs pymatgen: pip install pymatgen") from None
    try:
        with (gzip.open if path.name.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
            plain = json.load(file)
        if foreign := _modules(plain) - _TRUSTED:
            raise InputError(
                f"{path} asks for the package {min(foreign)}; only {', '.join(sorted(_TRUSTED))} are loaded"
            )
        content = MontyDecoder().process_decoded(plain)
    except InputError:
        raise
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error
    content = getattr(content, "defect_entries", content)
    named = content if isinstance(content, Mapping) and "@module" not in content else None
    if named is not None:
        neutral = {name: one for name, one in named.items() if not getattr(one, "charge_state", 0)}
        named = neutral or named
    elif isinstance(content, list):
        named = {str(number): one for number, one in enumerate(content)}
    else:
        named = {"": content}
    try:
        return {str(name): as_atoms(one) for name, one in named.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
