"""VASP runs: where they are in a tree of folders, and their ionic steps, also of runs that were cut off."""

import lzma
import os
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.formats import get_compression, open_with_compression

from ...errors import InputError
from .frames import read_frames

_KINDS = {"vasprun.xml": "vasp-xml", "OUTCAR": "vasp-out"}  # ASE's names; the better one first
_LAST_WORDS = {"vasp-xml": "</modeling>", "vasp-out": "General timing and accounting"}
_LAST_LINES = 100  # more than VASP writes from there on


def find_runs(folder: str | Path) -> list[Path]:
    """The vasprun.xml or else the OUTCAR, also compressed, of every folder in a tree that has one, sorted by folder.

    Raises:
        InputError: if there is none.
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


def read_run(path: Path, kind: str, notes: dict[str, Any]) -> Iterator[Atoms]:
    """The complete ionic steps of a run; of one that was cut off, those before.

    Args:
        path: of its output.
        kind: see [`run_kind`].
        notes: gets `cut_off`, whether VASP did not come to its end.

    Raises:
        InputError: if there is no complete step, or the file of a run that ended is damaged.
    """
    last_lines = _last_lines(path)
    notes["cut_off"] = not any(_LAST_WORDS[kind] in line for line in last_lines)
    steps = 0
    try:
        # The energy is the end of a step in OUTCAR; cut off inside the number, it would be another one.
        torn = kind == "vasp-out" and "FREE ENERGIE" in last_lines[-5:][0] and not last_lines[-1].endswith("\n")
        for atoms in read_frames(path, ":-1" if torn else ":", kind):
            if atoms.calc is None:  # ASE returns the start where there is nothing else
                break
            yield atoms
            steps += 1
    except InputError:
        if steps == 0 or not notes["cut_off"]:
            raise
    if steps == 0:
        raise InputError(f"{path}: the run has no complete ionic step")


def _last_lines(path: Path) -> list[str]:
    """The last lines that can be read, one at least, also of a compressed file that is cut off itself."""
    lines = deque([""], _LAST_LINES)
    try:
        with open_with_compression(str(path)) as file:
            for line in file:
                lines.append(line)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        lines.append("")
    return list(lines)
