"""Does weighing the atoms near the defect keep a model from predicting nothing?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .cells import ERRORS, FAR, MAE, NEAR, change, far_error, force_cells
from .drawing import bars
from .experiment import Experiment, Row, Training, Verdict
from .lab import Lab

GEOMETRY, LOSS, LENGTH = "geometry", "loss", "|F| predicted / true"
LOSSES = ("mse", "weighted_mse", "weighted_l2")
MODELS = {"pairwise": "pairwise-small", "fourier": "fourier-small"}
TRIVIAL = 0.2  # of the length of the true forces; below, a model predicts next to nothing


class Loss(Experiment):
    name = "loss"
    title = "Losses"
    question = "What do importance weights and the kind of norm change, near the defect and far from it?"
    paper = "importance weighting avoids the trivial solution of predicting no forces"
    columns = {GEOMETRY: "", LOSS: "", **ERRORS, FAR: ".1f", LENGTH: ".2f"}

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from (_training(geometry, loss) for geometry in MODELS for loss in LOSSES)

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        for geometry in MODELS:
            for loss in LOSSES:
                metrics = lab.errors(_training(geometry, loss))
                cells = force_cells(metrics) | {FAR: far_error(metrics), LENGTH: metrics["force_norm_ratio"]}
                rows.append({GEOMETRY: geometry, LOSS: loss, **cells})
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        groups = {
            f"{row[GEOMETRY]}, {row[LOSS]}": {"all atoms": row[MAE], "near the defect": row[NEAR]} for row in rows
        }
        bars(groups, path, "force MAE (meV/Å)")

    def reading(self, rows: Sequence[Row]) -> str:
        parts = []
        for geometry in MODELS:
            plain, weighted, published = (row for row in rows if row[GEOMETRY] == geometry)
            parts.append(
                f"With {geometry} geometry the weighted squared error is at {weighted[NEAR]:.1f} meV/Å near the "
                f"defect and the weighted norm of the published code at {published[NEAR]:.1f}, where the plain "
                f"squared error is at {plain[NEAR]:.1f} ({change(plain[NEAR], weighted[NEAR])} and "
                f"{change(plain[NEAR], published[NEAR])}); far from it {plain[FAR]:.1f}, {weighted[FAR]:.1f} and "
                f"{published[FAR]:.1f} in the order of the table. Predicted forces have {plain[LENGTH]:.2f}, "
                f"{weighted[LENGTH]:.2f} and {published[LENGTH]:.2f} of the length of the true ones."
            )
        return " ".join(parts)

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        trivial = {loss: [row for row in rows if row[LOSS] == loss and row[LENGTH] < TRIVIAL] for loss in LOSSES}
        counts = ", ".join(f"{len(found)} with {loss}" for loss, found in trivial.items())
        text = f"trainings that end with forces below {TRIVIAL:.0%} of the true length: {counts}"
        if trivial["mse"] and not (trivial["weighted_mse"] or trivial["weighted_l2"]):
            return "reproduced", text
        if not any(trivial.values()):
            return "not reproduced", f"{text}; there is no trivial solution to be avoided at this size"
        return "not reproduced", text


def _training(geometry: str, loss: str) -> Training:
    """weighted_l2 is what the presets have."""
    return Training(MODELS[geometry], {} if loss == "weighted_l2" else {"force_loss": loss})
