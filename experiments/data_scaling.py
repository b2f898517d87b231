"""How do errors fall with the amount of data, and does augmentation teach the symmetry?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modeling_adapt.data.load.batching import StructureDataset
from modeling_adapt.data.load.reading import select_subset
from modeling_adapt.data.structures import Target
from modeling_adapt.evaluation.symmetry import octahedral_error

from .experiment import DEFECTS, DFT, LEARNS_FORCES, REAL, Experiment, Row, Training, Verdict, training_on
from .lab import Lab
from .shared import BY_CHANCE, ERRORS, HOPELESS, MAE, SHARE, curves, exponent, force_cells, number

MODEL, COUNT, TURNED = "model", "structures", "Oh error (meV/Å)"
SHARES = (3, 10, 30, 100)  # percent; nested
PROBES, OPERATIONS = 4, 12
PAPER, ENOUGH = 252_240, 0.5  # structures, and the share of them that can tell
FOURIER, AUGMENTED, PAIRWISE, ENERGY = "fourier", "fourier, augmented", "pairwise", "pairwise energy, DFT"


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
            target: Target = "energy_and_forces" if model == ENERGY else "forces"
            labelled = lab.data.rows(REAL if model == ENERGY else DEFECTS, "train", target)
            for share in SHARES:
                training, error = _training(model, share), None
                if model != ENERGY:
                    unseen = StructureDataset(lab.data.rows(DEFECTS, lab.data.unseen(DEFECTS)))
                    probes = [unseen[number * (len(unseen) - 1) // (PROBES - 1)] for number in range(PROBES)]
                    found = octahedral_error(*lab.model(training), probes, OPERATIONS)
                    error = None if found is None else 1000 * found
                cells = force_cells(lab.errors(training)) | {TURNED: error}
                rows.append({MODEL: model, COUNT: len(select_subset(labelled, share)), **cells})
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        errors = {model: _points(rows, model) for model in _found(rows)}
        turned = {model: _points(rows, model, TURNED) for model in (FOURIER, AUGMENTED)}
        curves({MAE: errors, TURNED: turned}, path, "number of structures", by_chance=(MAE,), said=BY_CHANCE)

    def reading(self, rows: Sequence[Row]) -> str:
        powers = ", ".join(f"{exponent(*_points(rows, model)):+.2f} ({model})" for model in _found(rows))
        plain, augmented, pairwise = _largest(rows)
        turned = ", ".join(
            f"{exponent(*_points(rows, model, TURNED)):+.2f} ({model})"
            for model in (FOURIER, AUGMENTED)
            if _points(rows, model, TURNED)[0]
        )
        return (
            f"Error as a power of the number of structures, fitted exponents: {powers}; of the error under "
            f"Oh: {turned}. All trainings have the same number of steps. With all {plain[COUNT]:,d} structures the "
            f"coordinates end at {plain[MAE]:.1f} meV/Å ({plain[SHARE]:.0%} of zero force) without and "
            f"{augmented[MAE]:.1f} ({augmented[SHARE]:.0%}) with augmentation, and break the symmetry of the cube by "
            f"{number(plain[TURNED])} and {number(augmented[TURNED])} meV/Å (root mean square). The pairwise "
            f"geometry, which has the symmetry built in ({number(pairwise[TURNED], '.1g')} meV/Å), ends at "
            f"{pairwise[MAE]:.1f}."
        )

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        plain, augmented, _ = _largest(rows)
        text = (
            f"there are {plain[COUNT]:,d} structures here, {plain[COUNT] / PAPER:.2%} of the paper's; with them the "
            f"coordinates stay {number(plain[TURNED])} meV/Å from the symmetry, with augmentation "
            f"{number(augmented[TURNED])}, where forces have {augmented[SHARE]:.0%} of the error of predicting none"
        )
        if plain[COUNT] < ENOUGH * PAPER or plain[TURNED] is None:
            return "not comparable", text
        return ("reproduced" if plain[TURNED] < plain[MAE] and plain[SHARE] < HOPELESS else "not reproduced"), text


def _largest(rows: Sequence[Row]) -> list[Row]:
    """The rows of all structures: coordinates without and with augmentation, pairwise."""
    return [max((row for row in rows if row[MODEL] == model), key=_count) for model in (FOURIER, AUGMENTED, PAIRWISE)]


def _count(row: Row) -> int:
    return row[COUNT]


def _models(lab: Lab) -> tuple[str, ...]:
    return (FOURIER, AUGMENTED, PAIRWISE, *([ENERGY] if DFT in lab.data.kinds else []))


def _found(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row[MODEL] for row in rows))


def _points(rows: Sequence[Row], model: str, heading: str = MAE) -> tuple[list[float], list[float]]:
    own = [row for row in rows if row[MODEL] == model and row[heading] is not None]
    return [row[COUNT] for row in own], [row[heading] for row in own]


def _training(model: str, share: int) -> Training:
    options: dict[str, Any] = {} if share == 100 else {"train_subset": share}
    if model == ENERGY:
        return training_on(DFT, "pairwise-energy", options | LEARNS_FORCES)
    if model == PAIRWISE:
        return Training("pairwise-small", options)
    if model == AUGMENTED:
        options["augmentation"] = ["octahedral", "translation"]
    return Training("fourier-small", options)
