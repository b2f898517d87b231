"""Frames of any file that ASE reads, one at a time."""

from collections.abc import Iterator
from pathlib import Path

from ase import Atoms
from ase.io import iread
from ase.io.formats import UnknownFileTypeError

from ...errors import InputError


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change: a file for which they are others now is not the one that was read before."""
    return path.stat().st_size, path.stat().st_mtime_ns


def read_frames(path: Path, index: str = ":", kind: str | None = None) -> Iterator[Atoms]:
    """What `index` selects of a file, in Python's notation: "0", "-1", ":", "::10"; nothing where it selects nothing.

    Args:
        path: a file of any format that ASE reads.
        index: see above.
        kind: ASE's name of the format, such as vasp-out; by default it is found by name and content.

    Raises:
        InputError: for a file that is missing, empty or not readable.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    count = 0
    try:
        for atoms in iread(path, index=index, format=kind, do_not_split_by_at_sign=True):
            yield atoms
            count += 1
    except UnknownFileTypeError as error:
        raise InputError(f"{path}: ASE does not know this kind of file") from error
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise InputError(f"{path}: ASE cannot read frame {count}: {message}") from error
