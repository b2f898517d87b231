"""Does an atom have to see the whole cell?"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .experiment import IONIC, Experiment, Row, Training, Verdict, training_on
from .lab import Lab
from .shared import (
    CHANCE,
    DATA,
    ERRORS,
    FAR,
    HOPELESS,
    MAE,
    NEAR,
    SHARE,
    bars,
    change,
    far_error,
    force_cells,
    grouped,
    number,
)

RADIUS, SEEDS, SPREAD = "atoms see", "seeds", "between them"
LARGE, INCREASE, FAR_INCREASE = "in 512-atom cells", "increase", "increase far from it"
CUTOFFS, PRESET = (3.0, 4.0, 5.0, 6.5), 5.0  # Å
SEED_OPTIONS: tuple[dict[str, int], ...] = ({}, {"seed": 1})
ALL = f"{PRESET:g} Å, and all by waves"
LARGER_CELLS = {IONIC: f"{IONIC} 4 cells", "generated": "4 cells"}


class AttentionRadius(Experiment):
    name = "attention-radius"
    title = "Attention within a radius"
    question = "How much do errors grow when atoms may meet only within a radius, and not all of their images too?"
    paper = "errors grow when attention is restricted, so global attention is needed"
    columns = {
        **{DATA: "", RADIUS: "", SEEDS: "d", **ERRORS, FAR: ".1f", LARGE: ".1f"},
        **{SPREAD: ".0%", INCREASE: "+.0%", FAR_INCREASE: "+.0%"},
    }
    also_measured_on = tuple(LARGER_CELLS.values())
    minutes = 3

    def trainings(self, lab: Lab) -> Iterator[Training]:
        for data in (*lab.data.kinds, IONIC):
            yield from (training for seeds in _variants(lab, data).values() for training in seeds)

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        for data in (*lab.data.kinds, IONIC):
            own = [
                {DATA: data, RADIUS: radius, **_cells(lab, data, seeds)}
                for radius, seeds in _variants(lab, data).items()
            ]
            everything = own[-1]
            for row in own:
                far, far_all = row[FAR], everything[FAR]
                row[INCREASE] = row[MAE] / everything[MAE] - 1
                row[FAR_INCREASE] = far / far_all - 1 if far and far_all else None
            rows += own
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        shown = {"all atoms": MAE, NEAR: NEAR, FAR: FAR}
        groups = {
            f"{row[DATA]}, {row[RADIUS]}": {name: row[heading] for name, heading in shown.items() if row[heading]}
            for row in rows
        }
        bars(groups, path, MAE)

    def reading(self, rows: Sequence[Row]) -> str:
        parts = []
        for (data,), (*restricted, everything) in grouped(rows, DATA).items():
            best = min(restricted, key=lambda row: row[MAE])
            parts.append(
                f"On the {data} data the best radius, {best[RADIUS]}, gives {best[MAE]:.1f} meV/Å, and "
                f"{everything[MAE]:.1f} where all atoms meet by waves too ({change(best[MAE], everything[MAE])}; near "
                f"the defect {change(best[NEAR], everything[NEAR])}, far from it {change(best[FAR], everything[FAR])}"
                f"{_in_large_cells(best, everything)})."
            )
        return " ".join(parts)

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        """Where every radius is worse than all atoms by more than chance, all atoms are needed."""
        learned = {data: own for (data,), own in grouped(rows, DATA).items() if not _is_hopeless(own)}
        least = {data: min(row[INCREASE] for row in restricted) for data, (*restricted, _) in learned.items()}
        needed = [data for data, increase in least.items() if increase > CHANCE]
        said = ", ".join(f"{increase:+.0%} on the {data} data" for data, increase in least.items())
        text = f"without far fields the best radius has an error of {said or '?'}{_nothing_learned(rows)}"
        if not least:
            return "not comparable", text
        if len(needed) == len(least):
            return "reproduced", text
        if not needed:
            return "not reproduced", text
        return "new here", f"it depends on the forces: {text}"


def _is_hopeless(own: Sequence[Row]) -> bool:
    """Whether all trainings on a data set ended near the error of predicting zero, and so tell nothing of a radius."""
    return min(row[SHARE] for row in own) > HOPELESS


def _nothing_learned(rows: Sequence[Row]) -> str:
    names = [data for (data,), own in grouped(rows, DATA).items() if _is_hopeless(own)]
    return f"; nothing was learned on the {' and '.join(names)} data, which tell nothing of it" if names else ""


def _in_large_cells(best: Row, everything: Row) -> str:
    if best[LARGE] is None:
        return ""
    return f"; in cells never trained on {best[LARGE]:.1f} and {number(everything[LARGE])}"


def _cells(lab: Lab, data: str, seeds: Sequence[Training]) -> dict[str, Any]:
    """Means over the seeds."""
    found = [lab.errors(training) for training in seeds]
    cells = [force_cells(metrics) | {FAR: far_error(metrics)} for metrics in found]
    errors = [metrics["force_mae_mev_per_ang"] for metrics in found]
    large = [force_cells(lab.errors(training, LARGER_CELLS[data])) for training in seeds if data in LARGER_CELLS]
    return {
        **{heading: _mean([one[heading] for one in cells]) for heading in cells[0]},
        SEEDS: len(seeds),
        LARGE: _mean([one[MAE] for one in large]),
        SPREAD: max(errors) / min(errors) - 1 if len(errors) > 1 else None,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def local_and_global(lab: Lab) -> tuple[Training, Training]:
    """The first training on ions of the preset, and of the same with all atoms."""
    variants = _variants(lab, IONIC)
    return variants[f"{PRESET:g} Å"][0], variants[ALL][0]


def _variants(lab: Lab, data: str) -> Mapping[str, Sequence[Training]]:
    """By what atoms see, all of them last; of each two seeds."""
    options: dict[str, tuple[dict[str, Any], float]] = {
        f"{cutoff:g} Å": ({} if cutoff == PRESET else {"pairwise_cutoff": cutoff}, (cutoff / PRESET) ** 2)
        for cutoff in CUTOFFS
    }
    options[ALL] = {"long_range": True}, 1.2
    told = {"charge": "any"} if data == IONIC else {}  # that of rigid ions is told by their numbers
    return {
        name: [training_on(data, "pairwise-small", {**changed, **seed, **told}, cost) for seed in SEED_OPTIONS]
        for name, (changed, cost) in options.items()
    }
