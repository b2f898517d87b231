"""Does an atom have to see the whole cell?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .experiment import Experiment, Row, Training, Verdict, training_on
from .lab import Lab
from .shared import (
    BY_CHANCE,
    CHANCE,
    DATA,
    ERRORS,
    FAR,
    HOPELESS,
    MAE,
    NEAR,
    SHARE,
    change,
    curves,
    far_error,
    force_cells,
    grouped,
)

RADIUS, GEOMETRY, INCREASE, FAR_INCREASE = "radius (Å)", "geometry", "increase", "increase far from it"
EVERYTHING = "all atoms"
FOURIER = (3.0, 5.0, 8.0)  # Å
PAIRWISE, PRESET = (3.0, 4.0, 5.0, 6.5), 5.0


class AttentionRadius(Experiment):
    name = "attention-radius"
    title = "Attention within a radius"
    question = "How much do errors grow when atoms may attend only to atoms within a radius?"
    paper = "errors grow when attention is restricted, so global attention is needed"
    columns = {DATA: "", GEOMETRY: "", RADIUS: "", **ERRORS, FAR: ".1f", INCREASE: "+.0%", FAR_INCREASE: "+.0%"}

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from (training for variants in _variants(lab).values() for training in variants.values())

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        for (data, geometry), variants in _variants(lab).items():
            found = {radius: lab.errors(training) for radius, training in variants.items()}
            widest = list(found.values())[-1]
            for radius, metrics in found.items():
                far, far_widest = far_error(metrics), far_error(widest)
                increases = {
                    INCREASE: metrics["force_mae_mev_per_ang"] / widest["force_mae_mev_per_ang"] - 1,
                    FAR_INCREASE: far / far_widest - 1 if far and far_widest else None,
                }
                cells = force_cells(metrics) | {FAR: far, **increases}
                rows.append({DATA: data, GEOMETRY: geometry, RADIUS: radius, **cells})
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
        for (data, geometry), own in grouped(rows, DATA, GEOMETRY).items():
            bounded = [row for row in own if row[RADIUS] != EVERYTHING]
            points = [float(row[RADIUS]) for row in bounded], [row[MAE] for row in bounded]
            panels.setdefault(f"{data}: {MAE}", {})[geometry] = points
        everything = [row[MAE] for row in rows if row[RADIUS] == EVERYTHING]
        levels = "fourier, all atoms", everything
        curves(panels, path, RADIUS, log_scale=False, levels=levels, by_chance=panels, said=BY_CHANCE)

    def reading(self, rows: Sequence[Row]) -> str:
        parts = []
        for (data, geometry), own in grouped(rows, DATA, GEOMETRY).items():
            what = "attention" if geometry == "fourier" else "the cutoff"
            first, last = own[0], own[-1]
            best = min(own, key=lambda row: row[MAE])
            parts.append(
                f"On the {data} data with {geometry} geometry, {what} of {first[RADIUS]} Å gives {first[MAE]:.1f} "
                f"meV/Å where {_named(last)} gives {last[MAE]:.1f} ({change(last[MAE], first[MAE])}; near the defect "
                f"{change(last[NEAR], first[NEAR])}, far from it {change(last[FAR], first[FAR])}). "
                f"The best is {_named(best)}."
            )
        return " ".join(parts)

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        verdicts, parts = [], []
        for (data, geometry), (*restricted, everything) in grouped(rows, DATA, GEOMETRY).items():
            if geometry != "fourier":
                continue
            worse = [row for row in restricted if row[INCREASE] > CHANCE]
            better = [row for row in restricted if row[INCREASE] < -CHANCE]
            if everything[SHARE] > HOPELESS and not better:
                parts.append(f"next to nothing is learned on the {data} data")
                continue
            parts.append(
                f"on the {data} data {len(worse)} of {len(restricted)} radii are worse than all atoms by more than "
                f"{CHANCE:.0%}, and {len(better)} better"
            )
            verdicts.append(len(worse) == len(restricted))
        text = f"with coordinates as tokens, {'; '.join(parts)}"
        if not verdicts:
            return "not comparable", text
        return ("reproduced" if all(verdicts) else "not reproduced"), text


def _named(row: Row) -> str:
    return "attention to all atoms" if row[RADIUS] == EVERYTHING else f"{row[RADIUS]} Å"


def _variants(lab: Lab) -> dict[tuple[str, str], dict[str, Training]]:
    """By data and geometry, and then by radius, the widest last."""
    variants = {}
    for data in lab.data.kinds:
        fourier = {
            f"{radius:g}": training_on(data, "fourier-small", {"attention_radius": radius}, cost=2)
            for radius in FOURIER
        }
        pairwise = {
            f"{cutoff:g}": training_on(data, "pairwise-small", {"pairwise_cutoff": cutoff}, cost=(cutoff / 5) ** 2)
            for cutoff in PAIRWISE
        }
        pairwise[f"{PRESET:g}"] = training_on(data, "pairwise-small")
        variants[data, "fourier"] = fourier | {EVERYTHING: training_on(data, "fourier-small")}
        variants[data, "pairwise"] = pairwise
    return variants
