"""How should coordinates enter the model?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .cells import ERRORS, MAE, SHARE, force_cells
from .drawing import bars
from .experiment import DEFECTS, LEARNS_FORCES, REAL, Experiment, Row, Training, Verdict
from .lab import Lab

DATA, GEOMETRY, MINUTES, ENERGY = "data", "geometry", "minutes", "energy MAE (meV/atom)"
COMPOSITION = "composition only"
MODELS = {
    "cartesian (published)": "published-small",
    "fourier": "fourier-small",
    "pairwise": "pairwise-small",
    "pairwise energy and gradient": "pairwise-energy",
}
GENERATED_DATA, REAL_DATA = "generated", "DFT"


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
        yield from (_training(name, data) for data in _data(lab) for name in MODELS)

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        for data in _data(lab):
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
        bars(groups, path, "force MAE in % of predicting zero")

    def reading(self, rows: Sequence[Row]) -> str:
        parts = []
        for data in dict.fromkeys(row[DATA] for row in rows):
            own = [row for row in rows if row[DATA] == data]
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
            f"trained for a few minutes, the published network is at {shares} of the error of predicting zero, so it "
            "cannot be held against MACE here; benchmarks/compare_mace.py holds the pairwise geometry against one",
        )


def _data(lab: Lab) -> tuple[str, ...]:
    return (GENERATED_DATA, *([REAL_DATA] if lab.has_real_data else []))


def _training(name: str, data: str) -> Training:
    options: dict[str, Any] = dict(LEARNS_FORCES) if "energy" in name else {}
    if data == GENERATED_DATA:
        return Training(MODELS[name], options, DEFECTS)
    return Training(MODELS[name], options | {"per_device_train_batch_size": 2}, REAL)
