"""What is asked of a potential: a YAML file such as those of `configuration/answers/`, read and checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError, no_such
from ..files import read_yaml
from .measurements import Crystal, Measured

HOSTS = Path(__file__).parents[1] / "configuration" / "answers"
_TOP = {"formula": str, "structure": str, "lattice_constant": float, "cells": list, "fmax": float}
_OPTIONAL = {"quick": list, "sources": dict, "answers": dict}
_OF_ALL = {"kind": str, "references": dict, "cells": list}


@dataclass(frozen=True)
class Reference:
    """What others found, in the unit of the answer, and where that stands."""

    value: float
    source: str


@dataclass(frozen=True)
class Question:
    """
    One answer that is asked for.

    Args:
        kind (`str`): A key of `KINDS`.
        cells (`tuple[int, ...]`): Cubic cells along an edge of each supercell that it is asked in.
        options (`Mapping[str, Any]`): Of its kind.
        references (`Mapping[str, Reference]`): By method.
    """

    kind: str
    cells: tuple[int, ...]
    options: Mapping[str, Any]
    references: Mapping[str, Reference]


@dataclass(frozen=True)
class Questions:
    """What is asked of a host; fields as in the YAML file."""

    formula: str
    structure: str
    lattice_constant: float
    fmax: float
    quick: tuple[str, ...]
    answers: Mapping[str, Question]

    def only_quick(self) -> "Questions":
        """The quick ones, each in its smallest cell."""
        chosen = {name: self.answers[name] for name in self.quick}
        return replace(self, answers={name: replace(one, cells=one.cells[:1]) for name, one in chosen.items()})


@dataclass(frozen=True)
class Kind:
    """The unit of an answer, its options with their defaults (None: must be given), and how it is measured."""

    unit: str
    options: Mapping[str, Any]
    measure: Callable[[Crystal, Mapping[str, Any]], Measured]


def _defect(crystal: Crystal, options: Mapping[str, Any]) -> Measured:
    added = []
    for place in options["add"]:
        element, place = (place[0], place[1:]) if isinstance(place[0], str) else (crystal.formula, place)
        added.append((element, tuple(place)))
    atoms = crystal.with_defect([tuple(place) for place in options["remove"]], added)
    return crystal.formation_energy(atoms, options["relax"], options["starts"])


def _elastic(crystal: Crystal, options: Mapping[str, Any]) -> Measured:
    found, notes = crystal.elastic_constants
    return Measured(found[options["constant"]], crystal.perfect, notes)


KINDS = {
    "lattice constant": Kind("Å", {}, lambda crystal, _: Measured(crystal.lattice_constant, crystal.perfect)),
    "bulk modulus": Kind("GPa", {}, lambda crystal, _: Measured(crystal.bulk_modulus, crystal.perfect)),
    "elastic": Kind("GPa", {"constant": None}, _elastic),
    "phonon": Kind(
        "THz",
        {"q": None, "branch": None},
        lambda crystal, options: Measured(float(crystal.phonons(tuple(options["q"]))[options["branch"]])),
    ),
    "surface": Kind(
        "J/m²",
        {"miller": None, "layers": 4, "vacuum": 12.0},
        lambda crystal, options: crystal.surface_energy(options["miller"], options["layers"], options["vacuum"]),
    ),
    "defect": Kind("eV", {"remove": (), "add": (), "relax": True, "starts": 1}, _defect),
    "barrier": Kind(
        "eV",
        {"remove": None, "hop": None, "images": 3},
        lambda crystal, options: crystal.migration_barrier(options["remove"], options["hop"], options["images"]),
    ),
}
_ONCE = ("lattice constant", "bulk modulus", "elastic", "phonon", "surface")  # a larger supercell is the same crystal


def read_questions(host: str) -> Questions:
    """
    Args:
        host (`str`): A file of `configuration/answers/` without its ending, such as silicon, or a YAML file like it.

    Raises:
        [`InputError`]: There is no such file, it has an unknown key (the nearest is named) or lacks one, or a value is
            of another type.
    """
    path = Path(host) if Path(host).suffix in (".yaml", ".yml") else HOSTS / f"{host}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(one.stem for one in HOSTS.glob("*.yaml")))
        raise InputError(f"there are no answers of '{host}'; name a YAML file, or one of: {names}")
    values = _checked(read_yaml(path), _TOP | _OPTIONAL, str(path), required=[*_TOP, "answers"])
    cells, sources = _whole(values["cells"], f"{path}: cells"), values.get("sources", {})
    answers = {str(name): _question(one, cells, sources, f"{path}: {name}") for name, one in values["answers"].items()}
    quick = tuple(map(str, values.get("quick", answers)))
    for name in quick:
        if name not in answers:
            raise InputError(f"{path}: quick: {no_such(name, answers)}")
    plain = {name: values[name] for name in ("formula", "structure", "lattice_constant", "fmax")}
    return Questions(**plain, quick=quick, answers=answers)


def _question(content: Any, cells: tuple[int, ...], sources: Mapping[str, Any], where: str) -> Question:
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind not in KINDS:
        raise InputError(f"{where}: its kind must be one of {', '.join(KINDS)}, not {kind!r}")
    known = KINDS[kind].options
    types = {name: object for name in known}
    values = _checked(content, _OF_ALL | types, where, [name for name, value in known.items() if value is None])
    own = _whole(values["cells"], f"{where}: cells") if "cells" in values else cells
    references = {}
    for method, found in values.get("references", {}).items():
        if not (isinstance(found, list) and len(found) == 2 and isinstance(found[0], int | float)):
            raise InputError(f"{where}: {method} must be a number and a key of sources, not {found!r}")
        if found[1] not in sources:
            raise InputError(f"{where}: {method}: {no_such(str(found[1]), sources)}")
        references[str(method)] = Reference(float(found[0]), " ".join(str(sources[found[1]]).split()))
    options = {name: values.get(name, default) for name, default in known.items()}
    _require_options(kind, options, where)
    return Question(kind, own[:1] if kind in _ONCE else own, options, references)


def _require_options(kind: str, options: Mapping[str, Any], where: str) -> None:
    """Raises [`InputError`] for what would fail after minutes of measuring."""
    places: dict[str, Any] = {"q": [options.get("q")], "hop": [options.get("hop")], "miller": [options.get("miller")]}
    removed = options.get("remove")
    places |= {"remove": [removed] if kind == "barrier" else removed, "add": options.get("add")}
    for name, found in places.items():
        for place in found if name in options and isinstance(found, Sequence) else ():
            numbers = place[1:] if name == "add" and place and isinstance(place[0], str) else place
            if not (isinstance(numbers, list) and len(numbers) == 3 and all(map(_is_number, numbers))):
                raise InputError(f"{where}: {name} has {place!r}, which is no place of three numbers")
    if options.get("constant", "C11") not in ("C11", "C12", "C44"):
        raise InputError(f"{where}: constant must be C11, C12 or C44, not {options['constant']!r}")
    for name in ("branch", "layers", "starts", "images"):
        least = 0 if name == "branch" else 1
        if name in options and not (type(options[name]) is int and options[name] >= least):
            raise InputError(f"{where}: {name} must be a whole number of at least {least}, not {options[name]!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked(content: dict[str, Any], types: Mapping[str, Any], where: str, required: Sequence[str]) -> dict[str, Any]:
    for name, value in content.items():
        if name not in types:
            raise InputError(f"{where}: {no_such(str(name), types)}")
        if not (_is_number(value) if types[name] is float else isinstance(value, types[name])):
            raise InputError(f"{where}: {name} cannot be {value!r}")
    if missing := [name for name in required if name not in content]:
        raise InputError(f"{where}: {missing[0]} is missing")
    return content


def _whole(values: list[Any], where: str) -> tuple[int, ...]:
    if not values or not all(type(one) is int and one >= 1 for one in values):
        raise InputError(f"{where} must be whole numbers of at least 1, not {values}")
    return tuple(sorted(values))
