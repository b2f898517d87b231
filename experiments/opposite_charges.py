"""How far does one charge feel another?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from modeling_adapt.data.defects.ionic import ionic_supercell, magnesium_oxide
from modeling_adapt.data.options import HOSTS

from .attention_radius import local_and_global
from .experiment import Experiment, Row, Training, Verdict
from .lab import Lab
from .shared import curves

DISTANCE, LABEL, LOCAL, GLOBAL = "distance (Å)", "labels (eV/Å)", "within 5 Å", "and all by waves"
CELLS = (8, 4, 4)  # 1,024 ions; along x more than twice as far as the data reach
FARTHEST = 12.0  # Å, to which a model should follow


class OppositeCharges(Experiment):
    name = "opposite-charges"
    title = "Two opposite charges"
    question = (
        "What is the force along x on an ion beside an oxygen vacancy when a magnesium vacancy, which has the "
        "opposite charge, is moved away along x?"
    )
    paper = "long-range interactions are what global attention is for; no curve is shown"
    columns = {DISTANCE: ".1f", LABEL: "+.3f", LOCAL: "+.3f", GLOBAL: "+.3f"}

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from local_and_global(lab)

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        labels, (local, everything) = magnesium_oxide(), map(lab.calculator, local_and_global(lab))
        return [
            {DISTANCE: distance, **{name: _force(ions, calculator) for name, calculator in calculators.items()}}
            for calculators in ({LABEL: labels, LOCAL: local, GLOBAL: everything},)
            for distance, ions in _pairs()
        ]

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        distances = [row[DISTANCE] for row in rows]
        series = {name: (distances, [row[heading] for row in rows]) for name, heading in _LINES.items()}
        curves({"force along x (eV/Å)": series}, path, DISTANCE, log_scale=False, floor=None)

    def reading(self, rows: Sequence[Row]) -> str:
        far = _far(rows)
        ranges = {name: np.ptp([row[heading] for row in far]) for name, heading in _LINES.items()}
        errors = {name: _error(far, name) for name in (LOCAL, GLOBAL)}
        return (
            f"Between {far[0][DISTANCE]:.1f} and {far[-1][DISTANCE]:.1f} Å the force of the labels changes by "
            f"{ranges['labels']:.3f} eV/Å, that of the model that sees 5 Å by {ranges[LOCAL]:.3f} and that of the "
            f"model in which all atoms meet by {ranges[GLOBAL]:.3f}; they are {errors[LOCAL]:.3f} and "
            f"{errors[GLOBAL]:.3f} eV/Å off."
        )

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        far = _far(rows)
        local, everything = _error(far, LOCAL), _error(far, GLOBAL)
        word = "follows" if everything < 0.2 * np.ptp([row[LABEL] for row in far]) else "does not follow"
        return "new here", (
            f"with far fields the force {word} the labels from {far[0][DISTANCE]:.1f} to {far[-1][DISTANCE]:.1f} Å: "
            f"an error of {everything:.3f} eV/Å, where it is {local:.3f} without"
        )


_LINES = {"labels": LABEL, LOCAL: LOCAL, GLOBAL: GLOBAL}


def _far(rows: Sequence[Row]) -> list[Row]:
    """Beyond the cutoff of the local model, as far as the verdict looks."""
    return [row for row in rows if 5 < row[DISTANCE] < FARTHEST + 1]


def _error(rows: Sequence[Row], name: str) -> float:
    """Mean over the distances, in eV/Å."""
    return float(np.mean([abs(row[name] - row[LABEL]) for row in rows]))


def _pairs() -> Iterator[tuple[float, Atoms]]:
    """Distances of the vacancies, and the ions without both, the one beside the first at the end."""
    edge = HOSTS["MgO"].lattice_constant
    host = ionic_supercell("MgO", edge, 1) * CELLS
    oxygen = _at(host, [edge / 2, 0.0, 0.0])
    beside = _at(host, [0.0, 0.0, 0.0])
    for step in range(1, CELLS[0] + 1):  # half of the cell
        magnesium = _at(host, [edge / 2 * (1 + step), 0.0 if step % 2 else edge / 2, 0.0])
        kept = [index for index in range(len(host)) if index not in (oxygen, magnesium, beside)]
        yield float(host.get_distance(oxygen, magnesium, mic=True)), host[[*kept, beside]]


def _at(host: Atoms, position: Sequence[float]) -> int:
    return int(np.argmin(np.linalg.norm(host.positions - position, axis=1)))


def _force(ions: Atoms, calculator: Any) -> float:
    return float(calculator.get_forces(ions)[-1, 0])
