"""How should coordinates enter the model?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .experiment import LEARNS_FORCES, Experiment, Row, Training, Verdict, training_on
from .lab import Lab
from .shared import BY_CHANCE, DATA, ERRORS, MAE, SHARE, bars, chance, force_cells, grouped

GEOMETRY, MINUTES, ENERGY = "geometry", "minutes", "energy MAE (meV/atom)"
COMPOSITION = "composition only"
MODELS = {
    "cartesian (published)": "published-small",
    "fourier": "fourier-small",
    "pairwise": "pairwise-small",
    "pairwise energy and gradient": "pairwise-energy",
}


class Geometry(Experiment):
    name = "geometry"
    title = "How coordinates enter"
    question = (
        "Published coordinates, Fourier coordinates or displacements between atoms: what learns from little data?"
    )
    paper = (
        "Cartesian coordinates; 33 % lower force error and 30 % lower energy error than MACE with 252,240 structures"
    )
    columns = {DATA: "", GEOMETRY: "", **ERRORS, ENERGY: ".2f", COMPOSITION: ".2f", MINUTES: ".1f"}

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from (_training(name, data) for data in lab.data.kinds for name in MODELS)

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        for data in lab.data.kinds:
            for name in MODELS:
                training = _training(name, data)
                energy = lab.energy_errors(training) if "energy" in name else {}
                rows.append(
                    {
                        DATA: data,
                        GEOMETRY: name,
                        **force_cells(lab.errors(training)),
                        ENERGY: energy.get("energy_mae_mev_per_atom"),
                        COMPOSITION: energy.get("composition_baseline_mae_mev_per_atom"),
                        MINUTES: lab.seconds(training) / 60,
                    }
                )
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        groups: dict[str, dict[str, float]] = {}
        for row in rows:
            groups.setdefault(row[GEOMETRY], {})[row[DATA]] = 100 * row[SHARE]
        bars(groups, path, "force MAE in % of predicting zero", ".0f", chance, BY_CHANCE)

    def reading(self, rows: Sequence[Row]) -> str:
        parts = []
        for (data,), own in grouped(rows, DATA).items():
            errors = ", ".join(f"{row[GEOMETRY]} {row[MAE]:.1f} ({100 * row[SHARE]:.0f} %)" for row in own)
            energy = own[-1]
            parts.append(
                f"On the {data} data, force MAE in meV/Å and share of predicting zero: {errors}; the energy is off by "
                f"{energy[ENERGY]:.2f} meV/atom, where the composition alone leaves {energy[COMPOSITION]:.2f}."
            )
        return " ".join(parts)

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        published = [row for row in rows if row[GEOMETRY].startswith("cartesian")]
        shares = " and ".join(f"{100 * row[SHARE]:.0f} % on the {row[DATA]} data" for row in published)
        return (
            "not comparable",
            f"the published network is at {shares} of the error of predicting zero after "
            f"{max(row[MINUTES] for row in published):.0f} minutes of training, and no MACE was trained here; "
            "benchmarks/compare_mace.py holds a model against one",
        )


def _training(name: str, data: str) -> Training:
    return training_on(data, MODELS[name], LEARNS_FORCES if "energy" in name else {})
