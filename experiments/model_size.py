"""How large does the model have to be?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .experiment import Experiment, Row, Training, Verdict, training_on
from .lab import Lab
from .shared import BY_CHANCE, CHANCE, DATA, ERRORS, MAE, NEAR, curves, force_cells, grouped

SIZE, PARAMETERS, MINUTES = "width x layers", "parameters", "minutes"
SHAPES = ((32, 1), (32, 2), (64, 2), (64, 4), (128, 2))
PRESET = (64, 2)


class ModelSize(Experiment):
    name = "model-size"
    title = "Size of the model"
    question = "How do errors depend on width and depth?"
    paper = "a small model is sufficient, and a large one overfits"
    columns = {DATA: "", SIZE: "", PARAMETERS: ",d", **ERRORS, MINUTES: ".1f"}

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from (_training(data, size) for data in lab.data.kinds for size in SHAPES)

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        for data in lab.data.kinds:
            for width, layers in SHAPES:
                training = _training(data, (width, layers))
                model, _ = lab.model(training)
                count = sum(weight.numel() for weight in model.parameters())
                cells = force_cells(lab.errors(training)) | {MINUTES: lab.seconds(training) / 60}
                rows.append({DATA: data, SIZE: _named(width, layers), PARAMETERS: count, **cells})
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        panels = {}
        for (data,), own in grouped(rows, DATA).items():
            own = sorted(own, key=_parameters)
            sizes = [row[PARAMETERS] for row in own]
            lines = {"all atoms": MAE, NEAR: NEAR}
            panels[f"{data}: {MAE}"] = {
                label: (sizes, [row[name] for row in own]) for label, name in lines.items() if own[0][name] is not None
            }
        curves(panels, path, "number of parameters", by_chance=panels, said=BY_CHANCE)

    def reading(self, rows: Sequence[Row]) -> str:
        parts = []
        for (data,), own in grouped(rows, DATA).items():
            best, ours, smallest = _best(own), _ours(own), min(own, key=_parameters)
            parts.append(
                f"On the {data} data, from {smallest[PARAMETERS]:,d} parameters ({smallest[SIZE]}) to "
                f"{best[PARAMETERS]:,d} ({best[SIZE]}, the best), the error goes from {smallest[MAE]:.1f} to "
                f"{best[MAE]:.1f} meV/Å; the preset ({ours[SIZE]}, {ours[PARAMETERS]:,d}) has {ours[MAE]:.1f}."
            )
        return (
            f"{' '.join(parts)} All are pairwise and learn for the same number of steps; minutes are of a training "
            "beside another one."
        )

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        verdicts, parts = [], []
        for (data,), own in grouped(rows, DATA).items():
            best, ours, largest = _best(own), _ours(own), max(own, key=_parameters)
            above, excess = (row[MAE] / best[MAE] - 1 for row in (ours, largest))
            parts.append(
                f"on the {data} data the error of the preset is {above:.0%} above the best ({best[SIZE]}), so it is "
                f"{'' if above < CHANCE else 'not '}sufficient; that of the largest is {excess:.0%} above, so it "
                f"{'overfits or learns too slowly' if excess > CHANCE else 'does not overfit'}"
            )
            verdicts.append(above < CHANCE < excess)
        return ("reproduced" if all(verdicts) else "not reproduced"), "; ".join(parts)


def _named(width: int, layers: int) -> str:
    return f"{width} x {layers}"


def _parameters(row: Row) -> int:
    return row[PARAMETERS]


def _best(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: row[MAE])


def _ours(rows: Sequence[Row]) -> Row:
    return next(row for row in rows if row[SIZE] == _named(*PRESET))


def _training(data: str, size: tuple[int, int]) -> Training:
    width, layers = size
    if size == PRESET:
        return training_on(data, "pairwise-small")
    options = {
        "hidden_size": width,
        "embedding_sizes": [width],
        "intermediate_size": 2 * width,
        "num_vector_channels": width // 2,
        "num_hidden_layers": layers,
    }
    return training_on(data, "pairwise-small", options, cost=(width / 64) * layers / 2)
