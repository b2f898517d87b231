"""Where the last structure of a relaxation goes, and in which formats."""

import argparse
import importlib.util
from pathlib import Path

import ase.io
from ase import Atoms
from ase.io.formats import ioformats

from ..errors import InputError, one_line
from ..files import whole_file
from .exchange import as_structure
from .relaxation import RelaxationResult

_PYMATGEN = "pymatgen"  # a format that ASE does not write


def write_result(name: str, result: RelaxationResult, output: Path) -> None:
    """Writes `NAME.relaxed.extxyz`, with the status in its comment line; it appears under its name only as a whole."""
    result.atoms.info["status"] = result.status
    with whole_file(result_file(name, output)) as unfinished:
        ase.io.write(unfinished, result.atoms, format="extxyz")


def result_file(name: str, output: Path) -> Path:
    """Where the last structure of a relaxation is."""
    return output / f"{name}.relaxed.extxyz"


def write_as(format_name: str, path: Path, atoms: Atoms) -> None:
    """
    Writes a structure in a format of [`writable_format`].

    Raises:
        [`InputError`]: the format cannot hold such a structure.
    """
    try:
        with whole_file(path) as unfinished:
            if format_name == _PYMATGEN:
                as_structure(atoms).to(str(unfinished), fmt="json")
            else:
                ase.io.write(unfinished, atoms, format=format_name)
    except Exception as error:  # each writer of ASE raises what it likes
        raise InputError(f"{path.name} cannot be written as {format_name}: {one_line(error)}") from error


def ending_of(format_name: str) -> str:
    """Of the files in a format, so that who reads them knows it."""
    return "json" if format_name == _PYMATGEN else format_name


def writable_format(text: str) -> str:
    """The type of an option: a format that ASE writes, or `pymatgen` where that is installed."""
    if text != _PYMATGEN and not (text in ioformats and ioformats[text].can_write):
        raise argparse.ArgumentTypeError(f"{text!r} is no format that ASE writes, such as cif or vasp, nor pymatgen")
    if text == _PYMATGEN and importlib.util.find_spec("pymatgen") is None:
        raise argparse.ArgumentTypeError("pymatgen is not installed: pip install pymatgen")
    return text
