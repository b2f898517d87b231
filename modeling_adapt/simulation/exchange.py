"""Structures of pymatgen and doped, in and out; neither package is needed for anything else."""

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase import Atoms

from ..errors import InputError, one_line

_TRUSTED = {"datetime", "doped", "numpy", "pymatgen", "uuid"}


def as_atoms(structure: Any) -> Atoms:
    """
    Args:
        structure (`Any`):
            `ase.Atoms`, `pymatgen` `Structure` or `Molecule`, or a defect entry of `pymatgen` or `doped`, of which the
            supercell is taken.

    Raises:
        [`InputError`]: None of these, or a charged defect: models know neutral ones only.
    """
    if isinstance(structure, Atoms):
        return structure
    charge = getattr(structure, "charge_state", 0)
    if hasattr(structure, "sc_entry"):
        structure = structure.sc_entry.structure
    if hasattr(structure, "to_ase_atoms"):
        charge = charge or getattr(structure, "charge", 0)
        if charge:
            raise InputError(f"a defect of charge {charge:+g}; models are trained on neutral defects only")
        if not getattr(structure, "is_ordered", True):
            raise InputError("a disordered structure; give one with an atom on each site")
        plain = structure.to_ase_atoms(msonable=False)
        return Atoms(plain.numbers, plain.positions, cell=plain.cell, pbc=plain.pbc, constraint=plain.constraints)
    raise InputError(f"a {type(structure).__name__} is no structure; give ase.Atoms or a pymatgen Structure")


def as_structure(atoms: Atoms) -> Any:
    """
    `atoms` as a `pymatgen` `Structure`, or as a `Molecule` where they are not periodic; fixed atoms stay fixed.

    Raises:
        [`InputError`]: `pymatgen` is not installed.
    """
    try:
        from pymatgen.io.ase import AseAtomsAdaptor
    except ImportError:
        raise InputError("pymatgen is not installed: pip install pymatgen") from None
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, constraint=atoms.constraints)
    return AseAtomsAdaptor.get_structure(bare) if bare.pbc.any() else AseAtomsAdaptor.get_molecule(bare)


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
        [`InputError`]: The file cannot be read, holds no structure, or the package that it needs is missing.
    """
    try:
        from monty.json import MontyDecoder
    except ImportError:
        raise InputError(f"{path} needs pymatgen: pip install pymatgen") from None
    try:
        plain = json.loads(_text(path))
        if foreign := _modules(plain) - _TRUSTED:
            raise InputError(
                f"{path} asks for the package {min(foreign)}; only {', '.join(sorted(_TRUSTED))} are loaded"
            )
        return {str(name): as_atoms(one) for name, one in _named(path, MontyDecoder().process_decoded(plain)).items()}
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    except Exception as error:  # the classes of other packages raise what they like
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error


def _named(path: Path, content: Any) -> Mapping[str, Any]:
    """The objects in what a file held; a single one has the empty name."""
    content = getattr(content, "defect_entries", content)
    if isinstance(content, list):
        content = {str(number): one for number, one in enumerate(content)}
    if not isinstance(content, Mapping) or "@module" in content:
        return {"": content}
    if not content:
        raise InputError(f"{path} holds no structure")
    return {name: one for name, one in content.items() if not getattr(one, "charge_state", 0)} or content
