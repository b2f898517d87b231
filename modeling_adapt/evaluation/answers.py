"""
The answers that a potential is made for, beside those of DFT and of other potentials: lattice, elasticity, phonons,
surfaces, and what defects cost. What is asked stands in `questions.py`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase.calculators.calculator import BaseCalculator
from tqdm import tqdm

from ..configuration_adapt import ADAPTConfig
from ..errors import InputError
from ..figures import GREY, MODEL, OTHER, PAGE, caption, drawn, legend_below
from ..files import write_whole
from ..loading import load_model
from ..simulation.calculator import ADAPTCalculator
from ..simulation.doubt import load_doubt
from ..simulation.results import model_names
from ..tables import format_table
from .compare import load_calculator_of_others
from .measurements import Crystal, Measured
from .questions import KINDS, Questions, Reference
from .questions import read_questions as read_questions  # who asks needs both

DFT = "DFT"  # the method that errors are counted from
ANSWERS_FILE, ANSWERS_FIGURE = "answers.json", "answers.png"


@dataclass(frozen=True)
class Answer:
    """
    Args:
        unit (`str`): Of all its numbers.
        values (`Mapping[int, float]`): By the number of atoms of the supercell, ascending.
        references (`Mapping[str, Reference]`, defaults to `{}`): By method.
        uncertainty (`float`, *optional*): Standard deviation, where the model gives one.
        notes (`tuple[str, ...]`, defaults to `()`): What to know of it, one line each.
    """

    unit: str
    values: Mapping[int, float]
    references: Mapping[str, Reference] = field(default_factory=dict)
    uncertainty: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """In the largest supercell."""
        return list(self.values.values())[-1]

    @property
    def change_with_size(self) -> float | None:
        """From the supercell before to the largest one."""
        values = list(self.values.values())
        return values[-1] - values[-2] if len(values) > 1 else None

    @property
    def error(self) -> float | None:
        """Against DFT."""
        return self.value - self.references[DFT].value if DFT in self.references else None

    def record(self) -> dict[str, Any]:
        """As answers.json has it."""
        return {
            "unit": self.unit,
            "value": self.value,
            "uncertainty": self.uncertainty,
            "by_atoms": {str(size): value for size, value in self.values.items()},
            "error": self.error,
            "references": {name: {"value": one.value, "source": one.source} for name, one in self.references.items()},
            "notes": list(self.notes),
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Answer":
        """From what [`record`] gave."""
        values = {int(size): float(value) for size, value in record["by_atoms"].items()}
        references = {
            str(name): Reference(float(one["value"]), str(one["source"])) for name, one in record["references"].items()
        }
        uncertainty = None if record.get("uncertainty") is None else float(record["uncertainty"])
        return cls(str(record["unit"]), values, references, uncertainty, tuple(map(str, record.get("notes", ()))))


_OURS: dict[str, Any] = {"color": MODEL.colour, "marker": "o", "linestyle": "", "zorder": 3, "gid": "this model"}
_OF_DFT: dict[str, Any] = {
    "color": OTHER.colour,
    "marker": "|",
    "markersize": 9,
    "markeredgewidth": 2,
    "linestyle": "",
    "gid": DFT,
}
_OTHERS: dict[str, Any] = {
    "color": GREY,
    "marker": "x",
    "markersize": 3,
    "linestyle": "",
    "zorder": 1,
    "gid": "other methods",
}
_DIGITS = {"eV": 2, "Å": 3, "GPa": 0, "J/m²": 2, "THz": 2}


def answering_calculator(name: str, questions: Questions, device: Any, revision: str | None, subfolder: str) -> Any:
    """
    The calculator of a checkpoint of ours, a MACE file that ends in .model, or an ASE calculator as `module:factory`.

    Raises:
        [`InputError`]: There is no such thing, it gives no energies, or it was trained on other elements.
    """
    others = load_calculator_of_others(name, device)
    if others is not None:
        if "energy" not in others.implemented_properties:
            raise InputError(f"{name} gives no energies, of which answers are made")
        return others
    model, _ = load_model(name, None, subfolder, revision)
    require_answers(model.config, questions, name)
    # Findings of the trained region are notes of the answers.
    doubt = load_doubt(name, subfolder, revision)
    return ADAPTCalculator(model, device=device, outside_domain="ignore", dtype="float64", doubt=doubt)


def require_answers(config: ADAPTConfig, questions: Questions, name: str) -> None:
    """Raises [`InputError`] for the configuration of a model, called `name`, that cannot answer."""
    if config.predicts != "energy" or not config.gives_forces:
        raise InputError(
            f"{name} gives {'forces and no energy' if config.gives_forces else 'no forces'}, and answers are "
            "differences of energies along relaxations: name a pooled energy model"
        )
    elements = set(_crystal(questions, None, 1).supercell(questions.lattice_constant).symbols)
    domain = config.training_domain
    if domain is not None and (unknown := sorted(elements - set(domain["elements"]))):
        raise InputError(
            f"{name} was trained on {', '.join(domain['elements'])} only, and these answers are of "
            f"{', '.join(unknown)}; name a model that knows the element"
        )


def answer(questions: Questions, calculator: BaseCalculator, progress: bool = True) -> dict[str, Answer]:
    """
    Asks a calculator; minutes for a small model and all of silicon.

    ```python
    >>> from ase.calculators.tersoff import Tersoff
    >>> answer(read_questions("silicon").only_quick(), calculator)["vacancy"].value
    ```

    Args:
        calculator (`BaseCalculator`): Any ASE calculator with energies and forces.

    Returns:
        `dict[str, Answer]`: By name, in the order of the questions.

    Raises:
        [`InputError`]: The calculator has no minimum of the crystal, or a question does not fit into its cell.
    """
    crystals: dict[int, Crystal] = {}
    found: dict[str, Answer] = {}
    with tqdm(total=len(questions.answers), leave=False, disable=None if progress else True) as bar:
        for name, one in questions.answers.items():
            bar.set_description(name)
            values, notes, uncertainty = {}, list[str](), None
            for cells in one.cells:
                crystal = crystals.setdefault(cells, _crystal(questions, calculator, cells))
                try:
                    measured = KINDS[one.kind].measure(crystal, one.options)
                except InputError as error:
                    raise InputError(f"{name}: {error}") from error
                values[len(crystal.perfect)] = measured.value
                uncertainty = measured.uncertainty  # of the largest cell, as the value
                notes += [*measured.notes, *_outside(calculator, measured)]
            notes = list(dict.fromkeys(notes))
            found[name] = Answer(KINDS[one.kind].unit, values, one.references, uncertainty, tuple(notes))
            bar.update()
    return found


def _crystal(questions: Questions, calculator: Any, cells: int) -> Crystal:
    crystal = Crystal(
        calculator, questions.formula, questions.structure, questions.lattice_constant, cells, questions.fmax
    )
    try:
        crystal.supercell(questions.lattice_constant)
    except (ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"{questions.formula} ({questions.structure}) is no cubic crystal of ASE: {error}") from error
    return crystal


def _outside(calculator: Any, measured: Measured) -> Iterator[str]:
    """Where a model of ours was not trained on the like of a relaxed structure."""
    domain = getattr(calculator, "domain", None)
    if domain is not None and measured.structure is not None:
        atoms = measured.structure
        forces = atoms.get_forces() if atoms.calc is not None and "forces" in atoms.calc.results else None
        for line in domain.findings(atoms, None, forces).values():
            yield f"outside the trained region: {line}"


def answer_cells(answers: Mapping[str, Answer]) -> tuple[list[str], list[list[str]]]:
    """
    Returns:
        `tuple[list[str], list[list[str]]]`: The headings and the lines of a table, also that of the card; columns
        without any value are left out.
    """
    sizes = sorted({size for one in answers.values() for size in one.values})
    step = f"{sizes[-2]} to {sizes[-1]} atoms" if len(sizes) > 1 else "size"
    methods = list(dict.fromkeys(name for one in answers.values() for name in one.references))
    others = [method for method in methods if method != DFT]
    header = ["answer", "unit", "this model", "±", step, DFT, "error", *others]
    lines = []
    for name, one in answers.items():
        digits = _DIGITS.get(one.unit, 3)

        def shown(value: float | None, digits: int = digits, sign: str = "") -> str:
            return "-" if value is None else f"{value:{sign}.{digits}f}"

        references = {method: found.value for method, found in one.references.items()}
        cells = [name, one.unit, shown(one.value), shown(one.uncertainty), shown(one.change_with_size, sign="+")]
        cells += [shown(references.get(DFT)), shown(one.error, sign="+")]
        lines.append(cells + [shown(references.get(method)) for method in others])
    kept = [place for place in range(len(header)) if place < 3 or any(line[place] != "-" for line in lines)]
    return [header[place] for place in kept], [[line[place] for place in kept] for line in lines]


def answer_notes(answers: Mapping[str, Answer]) -> list[str]:
    """What to know of single answers, and where the references are from, one line each."""
    lines = [f"{name}: {note}" for name, one in answers.items() for note in one.notes]
    cited: dict[str, dict[str, list[str]]] = {}  # method -> source -> answers
    for name, one in answers.items():
        for method, found in one.references.items():
            cited.setdefault(method, {}).setdefault(found.source, []).append(name)
    by_source: dict[str, list[str]] = {}
    for method, sources in cited.items():
        for source, names in sources.items():
            which = f"{method} of {', '.join(names)}" if len(sources) > 1 else method
            by_source.setdefault(source, []).append(which)
    return lines + [f"{', '.join(methods)}: {source}" for source, methods in by_source.items()]


def answers_text(answers: Mapping[str, Answer]) -> str:
    """To print: the table and its notes."""
    return "\n".join([format_table(*answer_cells(answers)), *answer_notes(answers)])


def write_answers(folder: Path, answers: Mapping[str, Answer], record: Mapping[str, Any]) -> None:
    """Writes answers.json, in which `record` stands before the answers, and where there are energies answers.png."""
    content = {**record, "answers": {name: one.record() for name, one in answers.items()}}
    write_whole(folder / ANSWERS_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    energies = {name: one for name, one in answers.items() if one.unit == "eV" and one.references}
    if len(energies) > 1:
        title = f"{model_names([record.get('model', '')])}: energies of {record.get('host', '')}"
        draw_energies(energies, folder / ANSWERS_FIGURE, title)


def draw_energies(answers: Mapping[str, Answer], path: Path, title: str = "") -> None:
    """
    Draws energies beside those of DFT and of other methods, and beside that how far they are from DFT; bars are the
    uncertainty that the model gives.

    Args:
        answers (`Mapping[str, Answer]`): Those in eV that have references, by name.
        path (`Path`): Image file.
        title (`str`, defaults to `""`): Of which model and host.
    """
    height = 1.2 + 0.19 * len(answers)
    with drawn(path, PAGE, height, columns=2, sharey=True, width_ratios=(1.4, 1)) as (figure, (left, right)):
        right.axvline(0, color=OTHER.colour, linewidth=1.1, zorder=0)
        for place, one in enumerate(answers.values()):
            values = {method: found.value for method, found in one.references.items()}
            origins = [(left, 0.0), *([(right, values[DFT])] if DFT in values else [])]
            for axes, origin in origins:
                axes.axhline(place, color=GREY, linewidth=0.3, zorder=-1)
                others = [value - origin for method, value in values.items() if method != DFT]
                axes.plot(others, [place] * len(others), **_OTHERS)
                axes.errorbar(one.value - origin, place, xerr=one.uncertainty, **_OURS)
            if DFT in values:
                left.plot(values[DFT], place, **_OF_DFT)
        for look in (_OURS, _OF_DFT, _OTHERS):
            left.plot([], [], **look, label=look["gid"])
        left.set_yticks(range(len(answers)), list(answers))
        left.set_ylim(len(answers) - 0.5, -0.5)
        left.set_xlabel("energy (eV)")
        right.set_xlabel("energy − DFT (eV)")
        bars = "; bars: its uncertainty, one standard deviation"
        caption(figure, title + (bars if any(one.uncertainty for one in answers.values()) else ""))
        legend_below(figure)
