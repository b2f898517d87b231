"""
The text of a VASP run with only those ionic steps whose labels are of converged DFT: what ASE's readers are given.

Steps whose SCF reached NELM have forces of an unfinished density, and those of ML_FF are another model's.
"""

import lzma
import re
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ase.io.formats import open_with_compression

from .charges import charge_of_electrons

_ENERGY = "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"  # in OUTCAR the end of a step, but for ...
_ENERGY_LINES = 4  # ... these
_LAST_WORDS = {"vasp-xml": "</modeling>", "vasp-out": "General timing and accounting"}
_NELM = {"vasp-xml": re.compile(r'name="NELM">\s*(\d+)'), "vasp-out": re.compile(r"NELM\s*=\s*(\d+)")}
_ITERATION = re.compile(r"Iteration\s+\d+\(\s*(\d+)\)")
_WITHOUT_VDW = re.compile(r"\s*w/o vdW\s*=\s*[-+\d.E]+")  # a second number where ASE expects one
# What is left out, and how that is said.
LEFT_OUT = {
    "unconverged": "whose SCF did not converge (NELM reached)",
    "learned": "of ML_FF",
    "without_forces": "without forces (NWRITE = 0; vasprun.xml has them)",
}


class RunText:
    """
    The run at `path` as a file to read, perhaps cut off or compressed.

    Args:
        path (`Path`): Of vasprun.xml or OUTCAR.
        kind (`str`): ASE's name of the format.

    Attributes:
        header (`str`): What stands before the first step; complete when that is reached.
        kept (`list[int]`): The numbers, from 0, of the ionic steps that were passed on so far.
        left_out (`dict[str, int]`): How many steps were not, for each of the reasons in `LEFT_OUT`.
        ended (`bool`): Whether the last words of VASP were met.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.name, self.kind = str(path), kind
        self.header = ""
        self.kept: list[int] = []
        self.left_out = dict.fromkeys(LEFT_OUT, 0)
        self.ended = False
        self._lines = self._vasprun() if kind == "vasp-xml" else self._outcar()
        self._rest = ""

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def __next__(self) -> str:
        return next(self._lines)

    def read(self, size: int = -1) -> str:
        """The next `size` letters, or all."""
        pieces, length = [self._rest], len(self._rest)
        for line in self._lines:
            pieces.append(line)
            length += len(line)
            if 0 <= size <= length:
                break
        text = "".join(pieces)
        size = len(text) if size < 0 else size
        self._rest = text[size:]
        return text[:size]

    def close(self) -> None:
        """Nothing stays open when the lines are read."""

    @cached_property
    def charge(self) -> float | None:
        """In elementary charges, by NELECT; None where the header, which must have been read, does not tell."""
        return charge_of_electrons(self.header)

    def read_header(self) -> None:
        """Reads as far as the first step."""
        while not self.header and next(self._lines, None) is not None:
            pass

    def _raw(self) -> Iterator[str]:
        """The lines as they are, of a damaged file those before."""
        try:
            with open_with_compression(self.name, "rb") as file:
                for line in file:
                    text = line.decode("latin-1")
                    self.ended = self.ended or _LAST_WORDS[self.kind] in text
                    yield text
        except (EOFError, ValueError, zlib.error, lzma.LZMAError):
            return

    def _vasprun(self) -> Iterator[str]:
        header: list[str] = []
        block: list[str] = []
        for line in self._raw():
            if not block and "<calculation>" not in line:
                header.append(line)
                yield line
                continue
            self.header = self.header or "".join(header)
            block.append(line)
            if "</calculation>" in line:
                yield from self._judged(block)
                block = []
        yield from self._judged(block) if block else ()  # ASE takes what is there of it

    def _outcar(self) -> Iterator[str]:
        lines = self._raw()
        header = self._outcar_header(lines)
        self.header = "".join(header)
        yield from header
        block: list[str] = []
        for line in lines:
            block.append(line)
            if len(block) > _ENERGY_LINES and _ENERGY in block[-1 - _ENERGY_LINES]:
                block[-_ENERGY_LINES:] = [_WITHOUT_VDW.sub("", text) for text in block[-_ENERGY_LINES:]]
                if line.endswith("\n"):  # cut off inside the number, the energy would be another one
                    yield from self._judged(block)
                block = []

    def _outcar_header(self, lines: Iterator[str]) -> list[str]:
        """As far as the first step, with the numbers of ions of many elements on one line."""
        header: list[str] = []
        for line in lines:
            if header and "ions per type" in header[-1] and re.fullmatch(r"(\s*\d+)+\s*", line):
                header[-1] = f"{header[-1].rstrip()} {line.lstrip()}"
                continue
            header.append(line)
            self.left_out["learned"] += f"ML {_ENERGY}" in line
            if "Iteration" in line:
                break
        return header

    def _judged(self, block: list[str]) -> list[str]:
        """The lines of a step, none where it is left out."""
        number = len(self.kept) + sum(self.left_out.values())
        reason = self._fault("".join(block))
        if reason is not None:
            self.left_out[reason] += 1
            return []
        self.kept.append(number)
        return block

    def _fault(self, step: str) -> str | None:
        nelm = _NELM[self.kind].findall(self.header)
        most = int(nelm[-1]) if nelm else None
        if self.kind == "vasp-xml":
            iterations, has_forces = step.count("<scstep>"), 'name="forces"' in step
            learned, converged = iterations == 0, False
        else:
            iterations = max(map(int, _ITERATION.findall(step)), default=1)
            has_forces, learned = "TOTAL-FORCE" in step, f"ML {_ENERGY}" in step
            converged = "EDIFF is reached" in step
        if learned:
            return "learned"
        if "EDIFF was not reached" in step or (most is not None and iterations >= most and not converged):
            return "unconverged"
        return None if has_forces else "without_forces"
