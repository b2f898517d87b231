"""Charges that files do not tell as a number: from the names of folders, and from the electrons of a VASP run."""

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ...elements_adapt import SYMBOLS

if TYPE_CHECKING:
    from ase import Atoms

_FIRST_WORDS = {*SYMBOLS[1:], *("v", "V", "Va", "vac", "i", "int", "Int", "inter", "sub", "as")}  # of defects' names
_TOLD = re.compile(r"(?:(?P<defect>.+)_)?(?:q|charge)(?:[=_]|(?=[+-]))(?P<charge>[+-]?\d{1,2})")
_ENDING = re.compile(r"(?P<defect>.+)_(?P<charge>[+-]?\d{1,2})")
_INSIDE = re.compile(r"Bond_Distortion_.+|Unperturbed|Rattled|Dimer|vasp_\w+")  # what ShakeNBreak and doped put there
_SUFFIXES = re.compile(r"(?:\.[A-Za-z]\w*)+$")
_NELECT = re.compile(r'(?:name="NELECT">|NELECT\s*=)\s*([\d.]+)')
_TYPES = re.compile(r'<array name="atomtypes".*?</array>', re.DOTALL)
_TYPE = re.compile(r"<rc><c>\s*(\d+)\s*</c><c>[^<]*</c><c>[^<]*</c><c>\s*([\d.]+)\s*</c>")
_IONS = re.compile(r"ions per type\s*=((?:\s+\d+)+)")
_ZVAL = re.compile(r"ZVAL\s*=\s*([\d.]+)\s+mass")


class NamedCharge(NamedTuple):
    """
    Args:
        defect (`str`): The path up to the charge: "runs/v_O" of "runs/v_O_+2/vasp_std".
        charge (`int`): In elementary charges.
    """

    defect: str
    charge: int


def named_charge(path: str) -> NamedCharge | None:
    """
    The charge that the names of folders and file tell, the innermost first: `v_O_+2`, `Cd_i_C3v_-1`, `q=-2`, and
    without a sign where it is certain, as in ShakeNBreak's `v_Cd_2/Unperturbed`. None where they tell none: `v_O_2`
    may be the second site as well.
    """
    parts = PurePosixPath(path).parts
    for place in reversed(range(len(parts))):
        found = _of_part(_SUFFIXES.sub("", parts[place]), "".join(parts[place + 1 : place + 2]))
        if found is not None:
            return NamedCharge("/".join([*parts[:place], *filter(None, [found.defect])]), found.charge)
    return None


def _of_part(name: str, inside: str) -> NamedCharge | None:
    if told := _TOLD.fullmatch(name):
        return NamedCharge(told["defect"] or "", int(told["charge"]))
    ending = _ENDING.fullmatch(name)
    if ending is None or "_" not in ending["defect"] or ending["defect"].split("_")[0] not in _FIRST_WORDS:
        return None
    certain = ending["charge"][0] in "+-" or int(ending["charge"]) == 0 or _INSIDE.fullmatch(inside)
    return NamedCharge(ending["defect"], int(ending["charge"])) if certain else None


def names_a_defect(name: str) -> bool:
    """Whether `name` is one as doped or pymatgen give it, such as v_O, Cd_i_C3v and Mg_Ga; not vacancy or bulk."""
    words = name.split("_")
    return len(words) > 1 and words[0] in _FIRST_WORDS and (words[1] in _FIRST_WORDS or words[1].isdigit())


def charge_of_electrons(header: str) -> float | None:
    """
    The electrons that a neutral cell would have minus NELECT; None where the text does not tell both.

    Args:
        header (`str`): What vasprun.xml or OUTCAR holds before the first ionic step.
    """
    electrons = _NELECT.findall(header)
    if types := _TYPES.search(header):
        neutral = [int(count) * float(valence) for count, valence in _TYPE.findall(types[0])]
    else:
        ions = _IONS.search(header)
        counts = [] if ions is None else list(map(int, ions[1].split()))
        valences = list(map(float, _ZVAL.findall(header)))[: len(counts)]
        neutral = (
            [n * valence for n, valence in zip(counts, valences, strict=True)] if len(valences) == len(counts) else []
        )
    return _rounded(sum(neutral) - float(electrons[-1])) if electrons and neutral else None


def charge_of_inputs(folder: Path, atoms: "Atoms") -> float | None:
    """
    What INCAR and POTCAR beside a POSCAR tell of its charge: None where INCAR sets no NELECT, and not a number where
    it does and there is no POTCAR of the same elements to compare with.
    """
    incar, potcar = folder / "INCAR", folder / "POTCAR"
    told = re.search(r"^\s*NELECT\s*=\s*([\d.]+)", _text(incar), re.MULTILINE)
    if told is None:
        return None
    blocks = [0, *(place for place in range(1, len(atoms)) if atoms.numbers[place] != atoms.numbers[place - 1])]
    counts = [end - start for start, end in zip(blocks, [*blocks[1:], len(atoms)], strict=True)]
    valences = list(map(float, _ZVAL.findall(_text(potcar))))
    if len(valences) != len(counts):
        return float("nan")
    return _rounded(sum(n * valence for n, valence in zip(counts, valences, strict=True)) - float(told[1]))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _rounded(charge: float) -> float:
    """NELECT is given to a few digits; what is nearly a whole number is one."""
    return float(round(charge)) if abs(charge - round(charge)) < 0.01 else charge
