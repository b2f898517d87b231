"""Does weighing the atoms near the defect keep a model from predicting nothing?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .experiment import Experiment, Row, Training, Verdict, training_on
from .lab import Lab
from .shared import (
    BY_CHANCE,
    DATA,
    ERRORS,
    FAR,
    MAE,
    NEAR,
    bars,
    chance,
    change,
    far_error,
    force_cells,
    grouped,
    number,
)

GEOMETRY, LOSS, LENGTH = "geometry", "loss", "|F| predicted / true"
LOSSES = ("mse", "weighted_mse", "weighted_l2")
MODELS = {"pairwise": "pairwise-small", "fourier": "fourier-small", "published": "published-small"}
TRIVIAL = 0.2  # of the length of the true forces; below, a model predicts next to nothing


class Loss(Experiment):
    name = "loss"
    title = "Losses"
    question = "What do importance weights and the kind of norm change, near the defect and far from it?"
    paper = "importance weighting avoids the trivial solution of predicting no forces"
    columns = {DATA: "", GEOMETRY: "", LOSS: "", **ERRORS, FAR: ".1f", LENGTH: ".2f"}

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from (_training(*variant) for variant in _variants(lab))

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        for data, geometry, loss in _variants(lab):
            metrics = lab.errors(_training(data, geometry, loss))
            cells = force_cells(metrics) | {FAR: far_error(metrics), LENGTH: metrics["force_norm_ratio"]}
            rows.append({DATA: data, GEOMETRY: geometry, LOSS: loss, **cells})
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        groups = {}
        for row in rows:
            shown = {"all atoms": row[MAE], "near the defect": row[NEAR]}
            name = f"{row[DATA]}, {row[GEOMETRY]}, {row[LOSS]}"
            groups[name] = {atoms: error for atoms, error in shown.items() if error is not None}
        bars(groups, path, MAE, ".0f", chance, BY_CHANCE)

    def reading(self, rows: Sequence[Row]) -> str:
        parts = []
        for (data, geometry), (plain, weighted, published) in grouped(rows, DATA, GEOMETRY).items():
            parts.append(
                f"On the {data} data with {geometry} geometry the weighted squared error is at "
                f"{number(weighted[NEAR])} meV/Å near the defect and the weighted norm of the published code at "
                f"{number(published[NEAR])}, where the plain squared error is at {number(plain[NEAR])} "
                f"({change(plain[NEAR], weighted[NEAR])} and {change(plain[NEAR], published[NEAR])}); far from it "
                f"{number(plain[FAR])}, {number(weighted[FAR])} and {number(published[FAR])} in the order of the "
                f"table. Predicted forces have {plain[LENGTH]:.2f}, {weighted[LENGTH]:.2f} and "
                f"{published[LENGTH]:.2f} of the length of the true ones."
            )
        return " ".join(parts)

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        trivial = {loss: [row for row in rows if row[LOSS] == loss and row[LENGTH] < TRIVIAL] for loss in LOSSES}
        counts = ", ".join(f"{len(found)} with {loss}{_names(found)}" for loss, found in trivial.items())
        text = f"trainings that end with forces below {TRIVIAL:.0%} of the true length: {counts}"
        if not trivial["mse"]:
            return "not comparable", f"{text}; none falls into the trivial solution without weights"
        return ("not reproduced" if trivial["weighted_mse"] or trivial["weighted_l2"] else "reproduced"), text


def _names(rows: Sequence[Row]) -> str:
    return f" ({'; '.join(f'{row[GEOMETRY]}, {row[DATA]} data' for row in rows)})" if rows else ""


def _variants(lab: Lab) -> list[tuple[str, str, str]]:
    """Data, geometry and loss of each row."""
    return [(data, geometry, loss) for data in lab.data.kinds for geometry in MODELS for loss in LOSSES]


def _training(data: str, geometry: str, loss: str) -> Training:
    """weighted_l2 is what the presets have."""
    return training_on(data, MODELS[geometry], {} if loss == "weighted_l2" else {"force_loss": loss})
