"""Which command an output folder is of, so that the same one goes on there and another one does not."""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ..errors import InputError
from ..files import require_empty_folder, write_whole

RECORD = "relax.json"
_OPTIONS = (
    *("model", "energy_model", "revision", "energy_revision", "energy_subfolder"),
    *("fmax", "steps", "num_images", "dtype"),
)
# A ranking is made anew each time, so it may have another host.
_OF_THE_RANKING = ("host", "chemical_potentials")


def record_of(arguments: argparse.Namespace, structures: Mapping[str, Atoms]) -> dict[str, Any]:
    """The options that decide the results, a hash of the structures, and what the ranking was made with."""
    digest = hashlib.sha256()
    for name, atoms in structures.items():
        digest.update(name.encode())
        for values in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            digest.update(np.ascontiguousarray(values).tobytes())
        digest.update(repr([constraint.todict() for constraint in atoms.constraints]).encode())
    options = {name: getattr(arguments, name) for name in (*_OPTIONS, *_OF_THE_RANKING)}
    return options | {"structures": len(structures), "sha256": digest.hexdigest()}


def require_same_command(output: Path, record: Mapping[str, Any]) -> None:
    """Raises [`InputError`] unless `output` is empty, can be made, or holds the beginnings of the same command."""
    path = output / RECORD
    if not path.is_file():
        require_empty_folder(output)
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        compared = (name for name in record if name not in _OF_THE_RANKING)
        different = [name for name in compared if there.get(name) != record[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read: {error}; name a new folder") from error
    if different:
        name = different[0]
        what = f"{name} {there.get(name)}, not {record[name]}"
        if name in ("structures", "sha256"):
            what = "other structures"
        raise InputError(f"{output} holds results of another command ({what}); name a new folder")


def write_record(output: Path, record: Mapping[str, Any]) -> None:
    """Writes `relax.json`."""
    write_whole(output / RECORD, json.dumps(record, indent=2) + "\n")
