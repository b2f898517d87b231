"""The file that receives each frame of a relaxation as soon as it is known."""

import io
import re
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from ..errors import InputError

_NUMBERS = " %16.8f %16.8f %16.8f"  # a vector, as ASE writes it


class TrajectoryFile:
    """
    Extended XYZ, to the letter what ASE writes, several times faster: of the frames of one structure only numbers
    differ, so ASE writes the first, and the others are filled into it. If ASE should come to write it in another way,
    it writes all of them.

    A frame is written at once, so that the file can be read while, and after, anything happens. It is not kept open:
    that would save 0.02 ms a frame, and a batch on a GPU would run out of open files.

    Args:
        path (`str` or `Path`): Written anew by the first frame.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._frames = 0
        self._pattern: str | None = None

    def write(self, frame: Atoms) -> None:
        """
        The next frame, with its forces, and its energy or none, attached.

        Raises:
            [`InputError`]: The file cannot be written.
        """
        text = "" if self._pattern is None else _filled(self._pattern, frame)
        if not text:
            text = _as_ase_writes(frame)
        if self._frames == 0:
            pattern = _pattern(text, len(frame))
            self._pattern = pattern if _filled(pattern, frame) == text else None
        try:
            with open(self.path, "a" if self._frames else "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from error
        self._frames += 1


def _as_ase_writes(frame: Atoms) -> str:
    text = io.StringIO()
    ase.io.write(text, frame, format="extxyz")
    return text.getvalue()


def _pattern(text: str, atoms: int) -> str:
    """A frame with `%` where its numbers are; which fits only what is written as ASE does today."""
    count, comment, *rows = text.replace("%", "%%").splitlines()[: atoms + 2]
    comment = re.sub(r"\benergy=\S+", "energy=%s", comment)
    vector = r"(?: +\S+){3}"
    filled = [re.sub(rf"^(\S[\S ]){vector}( +[TF])*{vector}$", rf"\1{_NUMBERS}\2{_NUMBERS}", row) for row in rows]
    return "\n".join([count, comment, *filled, ""])


def _filled(pattern: str, frame: Atoms) -> str:
    """The text of a frame; none where the pattern has places for other values."""
    energy = frame.calc.results.get("energy")
    values = np.concatenate([frame.positions, frame.calc.results["forces"]], axis=1).ravel().tolist()
    try:
        return pattern % (*([] if energy is None else [energy]), *values)
    except TypeError:
        return ""


__all__ = ["TrajectoryFile"]
