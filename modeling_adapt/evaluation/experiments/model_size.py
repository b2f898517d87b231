"""How large does the model have to be?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .cells import CHANCE, ERRORS, MAE, NEAR, force_cells
from .drawing import curves
from .experiment import Experiment, Row, Training, Verdict
from .lab import Lab

SIZE, PARAMETERS, MINUTES = "width x layers", "parameters", "minutes"
SHAPES = ((32, 1), (32, 2), (64, 2), (64, 4), (128, 2))
OURS = (64, 2)  # what the preset has
PRESET = "64 x 2"


class ModelSize(Experiment):
    name = "model-size"
    title = "Size of the model"
    question = "How do errors depend on width and depth?"
    paper = "a small model is sufficient, and a large one overfits"
    columns = {SIZE: "", PARAMETERS: ",d", **ERRORS, MINUTES: ".1f"}

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from (_training(size) for size in SHAPES)

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        for width, layers in SHAPES:
            training = _training((width, layers))
            model, _ = lab.model(training)
            count = sum(weight.numel() for weight in model.parameters())
            minutes = lab.seconds(training) / 60
            cells = force_cells(lab.errors(training))
            rows.append({SIZE: f"{width} x {layers}", PARAMETERS: count, **cells, MINUTES: minutes})
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        rows = sorted(rows, key=lambda row: row[PARAMETERS])
        sizes = [row[PARAMETERS] for row in rows]
        series = {name: (sizes, [row[name] for row in rows]) for name in (MAE, NEAR)}
        curves({"force MAE (meV/Å)": series}, path, "parameters")

    def reading(self, rows: Sequence[Row]) -> str:
        best, ours = min(rows, key=lambda row: row[MAE]), next(row for row in rows if row[SIZE] == PRESET)
        smallest = min(rows, key=lambda row: row[PARAMETERS])
        return (
            f"From {smallest[PARAMETERS]:,d} parameters ({smallest[SIZE]}) to {best[PARAMETERS]:,d} ({best[SIZE]}, "
            f"the best) the error goes from {smallest[MAE]:.1f} to {best[MAE]:.1f} meV/Å; the preset ({ours[SIZE]}, "
            f"{ours[PARAMETERS]:,d}) has {ours[MAE]:.1f}. All are pairwise and learn for the same number of "
            "steps; minutes are of a training beside another one."
        )

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        largest, best = max(rows, key=lambda row: row[PARAMETERS]), min(rows, key=lambda row: row[MAE])
        ours = next(row for row in rows if row[SIZE] == PRESET)
        excess = largest[MAE] / best[MAE] - 1
        overfits = f"the largest is {excess:.0%} above the best" if excess > CHANCE else "the largest does not overfit"
        text = f"the preset is {ours[MAE] / best[MAE] - 1:.0%} above the best ({best[SIZE]}), and {overfits}"
        return ("reproduced" if ours[MAE] < (1 + CHANCE) * best[MAE] else "not reproduced"), text


def _training(size: tuple[int, int]) -> Training:
    width, layers = size
    if size == OURS:
        return Training("pairwise-small")
    options = {
        "hidden_size": width,
        "embedding_sizes": [width],
        "intermediate_size": 2 * width,
        "num_vector_channels": width // 2,
        "num_hidden_layers": layers,
    }
    return Training("pairwise-small", options, cost=(width / 64) * layers / 2)
