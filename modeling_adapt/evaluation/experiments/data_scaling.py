"""How do errors fall with the amount of data, and does augmentation teach the symmetry?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...data.loader import StructureDataset
from ..equivariance import octahedral_error
from .cells import ERRORS, MAE, error_cells, exponent
from .drawing import curves
from .experiment import DEFECTS, REAL, Experiment, Row, Training, Verdict
from .lab import Lab

MODEL, COUNT, TURNED = "model", "structures", "Oh error (meV/Å)"
SHARES = (3, 10, 30, 100)  # percent; nested
PROBES, OPERATIONS = 4, 12
FOURIER, AUGMENTED, PAIRWISE, DFT = "fourier", "fourier, augmented", "pairwise", "pairwise energy, DFT"


class DataScaling(Experiment):
    name = "data-scaling"
    title = "Amount of data"
    question = "How do errors fall with the number of structures, and what does augmentation by Oh and shifts bring?"
    paper = "a plain Transformer learns the symmetry from 252,240 structures, without augmentation"
    columns = {MODEL: "", COUNT: ",d", **ERRORS, TURNED: ".1f"}
    minutes = 3

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from (_training(model, share) for model in _models(lab) for share in SHARES)

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        for model in _models(lab):
            for share in SHARES:
                training = _training(model, share)
                count = round(len(lab.rows(training.dataset, "train")) * share / 100)
                error = None
                if model != DFT:
                    unseen = StructureDataset(lab.rows(DEFECTS, lab.split(DEFECTS)))
                    probes = [unseen[number * (len(unseen) - 1) // (PROBES - 1)] for number in range(PROBES)]
                    found = octahedral_error(*lab.model(training), probes, OPERATIONS)
                    error = None if found is None else 1000 * found
                cells = error_cells(lab.errors(training)) | {TURNED: error}
                rows.append({MODEL: model, COUNT: count, **cells})
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        curves({model: _points(rows, model) for model in _found(rows)}, path, "structures", "force MAE (meV/Å)")

    def reading(self, rows: Sequence[Row]) -> str:
        powers = ", ".join(f"{exponent(*_points(rows, model)):+.2f} ({model})" for model in _found(rows))
        full = {row[MODEL]: row for row in rows if row[COUNT] == max(r[COUNT] for r in rows if r[MODEL] == row[MODEL])}
        plain, augmented, pairwise = (full[model] for model in (FOURIER, AUGMENTED, PAIRWISE))
        return (
            f"The error falls as a power of the number of structures with exponents {powers}; all trainings have the "
            f"same number of steps. With all {plain[COUNT]:,d} structures the coordinates end at {plain[MAE]:.1f} "
            f"meV/Å without and {augmented[MAE]:.1f} with augmentation, and break the symmetry of the cube by "
            f"{plain[TURNED]:.1f} and {augmented[TURNED]:.1f} meV/Å (root mean square). The pairwise geometry, which "
            f"has the symmetry built in ({pairwise[TURNED]:.3f} meV/Å), ends at {pairwise[MAE]:.1f}."
        )

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        return (
            "not comparable",
            "the paper has hundreds of times as many structures; at this size coordinates do not learn the symmetry, "
            "with or without augmentation",
        )


def _models(lab: Lab) -> tuple[str, ...]:
    return (FOURIER, AUGMENTED, PAIRWISE, *([DFT] if lab.has_real_data else []))


def _found(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row[MODEL] for row in rows))


def _points(rows: Sequence[Row], model: str) -> tuple[list[float], list[float]]:
    own = [row for row in rows if row[MODEL] == model]
    return [row[COUNT] for row in own], [row[MAE] for row in own]


def _training(model: str, share: int) -> Training:
    options: dict[str, Any] = {} if share == 100 else {"train_subset": share}
    if model == DFT:
        return Training("pairwise-energy", options | {"force_weight": 40.0, "per_device_train_batch_size": 2}, REAL)
    if model == PAIRWISE:
        return Training("pairwise-small", options)
    if model == AUGMENTED:
        options["augmentation"] = ["octahedral", "translation"]
    return Training("fourier-small", options)
