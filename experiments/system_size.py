"""How do errors, time and memory grow with the number of atoms?"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .experiment import Experiment, Row, Training, Verdict
from .lab import LABELLED_SIZES, Lab, run_python
from .shared import HOPELESS, MAE, curves, exponent, grouped

MODEL, ATOMS, TIME, MEMORY, ZERO = "model", "atoms", "ms", "MB", "zero force"
SIZES = (2, 3, 4, 5, 6, 8)  # cubic cells along an edge, of 8 atoms each
MODELS = {
    "published, attention weights": (Training("published-small"), "eager"),
    "published, fused attention": (Training("published-small"), "sdpa"),
    "pairwise": (Training("pairwise-small"), "sdpa"),
}
WEIGHTS, FUSED, PAIRWISE = MODELS
LARGE = 500  # atoms from which on the exponents are fitted


class SystemSize(Experiment):
    name = "system-size"
    title = "Size of the structure"
    question = (
        "How do errors, time and memory grow from 64 to 4,096 atoms, with and without explicit attention weights?"
    )
    paper = "full attention, quadratic in the number of atoms; whether larger cells work is an open question"
    columns = {MODEL: "", ATOMS: ",d", TIME: ",.0f", MEMORY: ",.0f", MAE: ".1f", ZERO: ".1f"}
    minutes = 6
    about_silicon = True
    also_measured_on = tuple(f"{repeat} cells" for repeat in LABELLED_SIZES)

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from (training for training, _ in MODELS.values())

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        for name, (training, attention) in MODELS.items():
            for repeat in tqdm(SIZES, name, disable=None):
                cost = _in_own_process(lab.model_folder(training), attention, repeat)
                errors = lab.errors(training, f"{repeat} cells") if repeat in LABELLED_SIZES else {}
                rows.append(
                    {
                        MODEL: name,
                        ATOMS: 8 * repeat**3,
                        TIME: cost["ms"],
                        MEMORY: cost["mb"],
                        MAE: errors.get("force_mae_mev_per_ang"),
                        ZERO: errors.get("zero_force_mae_mev_per_ang"),
                    }
                )
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
        for heading, label in ((TIME, "forces of one structure (ms)"), (MEMORY, "memory over the model (MB)")):
            for (name,), own in grouped(rows, MODEL).items():
                points = [row[ATOMS] for row in own], [row[heading] for row in own]
                panels.setdefault(label, {})[name] = points
        curves(panels, path, "number of atoms", said="one structure at a time")

    def reading(self, rows: Sequence[Row]) -> str:
        own = {name: group for (name,), group in grouped(rows, MODEL).items()}
        parts = []
        for name, group in own.items():
            large = [row for row in group if row[ATOMS] > LARGE]
            atoms = [row[ATOMS] for row in large]
            time, memory = (exponent(atoms, [row[heading] for row in large]) for heading in (TIME, MEMORY))
            parts.append(f"{time:.2f} and {memory:.2f} ({name})")
        last = {name: group[-1] for name, group in own.items()}
        labelled = [row for row in own[PAIRWISE] if row[MAE] is not None]
        errors = ", ".join(f"{row[MAE]:.1f} at {row[ATOMS]:,d} atoms" for row in labelled)
        published = [row for row in own[FUSED] if row[MAE] is not None]
        shown = ", ".join(f"{row[MAE]:.1f} of {row[ZERO]:.1f} at {row[ATOMS]:,d}" for row in published)
        learned = min(row[MAE] / row[ZERO] for row in published) < HOPELESS
        return (
            f"Beyond {LARGE} atoms time and memory grow with the powers {', '.join(parts)} of the number of atoms. At "
            f"{last[FUSED][ATOMS]:,d} atoms fused attention is {last[WEIGHTS][TIME] / last[FUSED][TIME]:.1f} times as "
            f"fast as explicit weights and takes {last[FUSED][MEMORY]:,.0f} instead of {last[WEIGHTS][MEMORY]:,.0f} "
            f"MB; the pairwise model takes {last[PAIRWISE][TIME]:,.0f} ms. Trained on cells of 216 atoms only, the "
            f"pairwise model has errors of {errors} (meV/Å); the published one has {shown} of predicting zero"
            f"{'.' if learned else ': it has learned next to nothing, and says nothing of other cells.'}"
        )

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        own = [row for row in rows if row[MODEL] == PAIRWISE and row[MAE] is not None]
        shares = [row[MAE] / row[ZERO] for row in own]
        grows = max(shares) / next(row[MAE] / row[ZERO] for row in own if row[ATOMS] == 216)
        text = (
            f"over cells of {own[0][ATOMS]} to {own[-1][ATOMS]:,d} atoms the share of zero force is at most "
            f"{grows:.1f} times that of 216 atoms"
        )
        return "new here", f"pairwise forces carry over to other cells: {text}" if grows < 2 else text


def _in_own_process(folder: Path, attention: str, repeat: int) -> dict[str, float]:
    """What [`forces_cost`] measures, where no earlier measurement has left its memory behind."""
    printed = run_python("-m", f"{__package__}.forces_cost", str(folder), attention, str(repeat))
    return json.loads(printed.splitlines()[-1])
