"""Where the last structure of a relaxation goes, and in which formats."""

import argparse
import importlib.util
from pathlib import Path

import ase.io
from ase.io.formats import ioformats

from ..command_line import whole_file
from .exchange import as_structure
from .relaxation import RelaxationResult

_PYMATGEN = "pymatgen"  # a format that ASE does not write


def write_result(name: str, result: RelaxationResult, output: Path, also: str | None = None) -> None:
    """
    Writes `NAME.relaxed.extxyz`, with the status in its comment line, and `NAME.relaxed.FORMAT` for the format `also`.
    Files appear under their names only as a whole.
    """
    result.atoms.info["status"] = result.status
    if also is not None:
        with whole_file(output / f"{name}.relaxed.{also}") as unfinished:
            if also == _PYMATGEN:
                as_structure(result.atoms).to(str(unfinished), fmt="json")
            else:
                ase.io.write(unfinished, result.atoms, format=also)
    with whole_file(output / f"{name}.relaxed.extxyz") as unfinished:
        ase.io.write(unfinished, result.atoms, format="extxyz")


def writable_format(text: str) -> str:
    """The type of an option: a format that ASE writes, or `pymatgen` where that is installed."""
    if text != _PYMATGEN and not (text in ioformats and ioformats[text].can_write):
        raise argparse.ArgumentTypeError(f"{text!r} is no format that ASE writes, such as cif or vasp, nor pymatgen")
    if text == _PYMATGEN and importlib.util.find_spec("pymatgen") is None:
        raise argparse.ArgumentTypeError("pymatgen is not installed: pip install pymatgen")
    return text
