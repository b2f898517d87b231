"""Frames of any file that ASE reads, one at a time; of VASP runs, also of those that were cut off."""

import lzma
import os
import re
import zlib
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from ase import Atoms
from ase.constraints import dict2constraint
from ase.io import iread
from ase.io.formats import UnknownFileTypeError, get_compression, open_with_compression
from ase.io.jsonio import decode

from ...crystal.minimum_image import shortest_images
from ...errors import InputError
from ..validation import LARGEST_STRUCTURE
from .vasp_steps import LEFT_OUT, RunText

LARGEST_STEP = 1.0  # Å; between neighbouring frames of one trajectory no atom and no cell vector moves farther
CONSTRAINTS = "adapt_constraints"  # key of `info`, for those that the format of a file has no place for
_XYZ, _POSCAR = re.compile(r"xyz(\.\w+)?$"), re.compile(r"poscar|contcar|\.vasp", re.IGNORECASE)
_KINDS = {"vasprun.xml": "vasp-xml", "OUTCAR": "vasp-out"}  # ASE's names; the better one first


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change: a file for which they are others now is not the one that was read before."""
    return path.stat().st_size, path.stat().st_mtime_ns


def read_frames(path: Path, index: str = ":", kind: str | None = None, text: RunText | None = None) -> Iterator[Atoms]:
    """What `index` selects of a file, in Python's notation: "0", "-1", ":", "::10"; nothing where it selects nothing.

    Args:
        path (`Path`): A file of any format that ASE reads.
        index (`str`, *optional*): See above; by default all.
        kind (`str`, *optional*):
            ASE's name of the format, such as vasp-out; by default it is found by name and content.
        text ([`RunText`], *optional*): What is read in the place of the file.

    Raises:
        [`InputError`]: A file that is missing, empty or not readable, or announces more than `LARGEST_STRUCTURE`.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    _require_counts(path)
    count = 0
    try:
        source = path if text is None else cast(IO, text)
        for atoms in iread(source, index=index, format=kind, do_not_split_by_at_sign=True):
            if CONSTRAINTS in atoms.info:
                atoms.set_constraint([dict2constraint(one) for one in decode(atoms.info.pop(CONSTRAINTS))])
            yield atoms
            count += 1
    except UnknownFileTypeError as error:
        raise InputError(f"{path}: ASE does not know this kind of file") from error
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if isinstance(error, KeyError) and re.fullmatch("[A-Z][a-z]?", str(error.args[0])):
            message = f"there is no element {error.args[0]}"
        raise InputError(f"{path}: ASE cannot read frame {count}: {message}") from error


def _require_counts(path: Path) -> None:
    """ASE makes room, or waits, for as many atoms as a file says it has; of some that would take hours."""
    try:
        with open_with_compression(str(path)) as file:
            if _POSCAR.search(path.name):
                counts = [line.split() for line in islice(file, 5, 7)]  # after title, scale and cell
                _require_count(path, sum(int(one) for words in counts if _are_counts(words) for one in words))
            while _XYZ.search(path.name) and _are_counts(words := next(file, "").split()):
                _require_count(path, int(words[0]))
                deque(islice(file, 1 + int(words[0])), 0)  # to the next frame
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError):
        return  # no text, which is for ASE to read


def _are_counts(words: list[str]) -> bool:
    return bool(words) and all(map(str.isdecimal, words))


def _require_count(path: Path, count: int) -> None:
    if count > LARGEST_STRUCTURE:
        raise InputError(f"{path}: a structure of {count:,} atoms; at most {LARGEST_STRUCTURE:,} are read")


def same_trajectory(before: Atoms, after: Atoms) -> bool:
    """Whether `after` holds the same atoms in the same order, each moved by less than `LARGEST_STEP` (minimum image).

    A cell that changes a little is followed: displacements are then those of the fractional coordinates.
    """
    if not np.array_equal(before.numbers, after.numbers) or not np.array_equal(before.pbc, after.pbc):
        return False
    if np.abs(before.cell - after.cell).max() >= LARGEST_STEP:
        return False
    moved = after.cell.complete().scaled_positions(after.positions) @ before.cell.complete()
    steps = shortest_images(moved - before.positions, before.cell, before.pbc)
    return bool(np.linalg.norm(steps, axis=1).max() < LARGEST_STEP)


def find_runs(folder: str | Path) -> list[Path]:
    """The vasprun.xml or else the OUTCAR, also compressed, of every folder in a tree that has one, sorted by folder.

    Raises:
        [`InputError`]: There is none.
    """
    runs = []
    seen = set()
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(parent, name)) not in seen]  # no rings
        found = [path for path in map(Path(parent).joinpath, sorted(names)) if run_kind(path) and path.is_file()]
        found.sort(key=lambda path: (path.stat().st_size == 0, run_kind(path) != "vasp-xml"))
        runs += found[:1]
    if not runs:
        raise InputError(f"{folder}: no {' or '.join(_KINDS)} in this folder or below; name files of other kinds")
    return sorted(runs)


def _refuse(error: OSError) -> None:
    """A folder that cannot be read is an error: data must not be missing without a word."""
    raise InputError(f"{error.filename} cannot be read: {error.strerror}; open it, or name the folders to import")


def run_kind(path: Path) -> str | None:
    """ASE's name of the format if `path` is called like VASP's output; None otherwise."""
    return _KINDS.get(Path(get_compression(str(path))[0]).name)


def run_charge(path: Path) -> float | None:
    """The charge of a VASP run by its NELECT, in elementary charges; None where its output does not tell."""
    kind = run_kind(path)
    if kind is None:
        return None
    text = RunText(path, kind)
    text.read_header()
    return text.charge


def read_run(path: Path, kind: str, notes: dict[str, Any]) -> Iterator[Atoms]:
    """The complete ionic steps of a run whose labels are of converged DFT; of one that was cut off, those before.

    `info` has the number of the step as `ionic_step`, and the `charge` where NELECT tells it.

    Args:
        path (`Path`): Of its output.
        kind (`str`): See [`run_kind`].
        notes (`dict[str, Any]`):
            Gets `cut_off`, whether VASP did not come to its end, and the number of steps left out for each of the
            reasons in `LEFT_OUT`.

    Raises:
        [`InputError`]: There is no such step, or the file of a run that ended is damaged.
    """
    text = RunText(path, kind)
    steps = 0
    try:
        for atoms in read_frames(path, ":", kind, text):
            if atoms.calc is None:  # ASE returns the start where there is nothing else
                break
            atoms.info["ionic_step"] = text.kept[steps]
            if text.charge is not None:
                atoms.info["charge"] = text.charge
            yield atoms
            steps += 1
    except InputError as error:
        if any(text.left_out.values()) and not text.kept:
            raise _without_steps(path, text) from error
        if steps == 0 or text.ended:
            raise
    notes.update(text.left_out, cut_off=not text.ended)
    if steps == 0:
        raise _without_steps(path, text)


def _without_steps(path: Path, text: RunText) -> InputError:
    reasons = [f"{count} {LEFT_OUT[reason]}" for reason, count in text.left_out.items() if count]
    if reasons:
        return InputError(f"{path}: the run has no ionic step to learn from: {', '.join(reasons)}")
    return InputError(f"{path}: the run has no complete ionic step")
