"""Does an atom have to see the whole cell?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .cells import CHANCE, ERRORS, FAR, HOPELESS, MAE, NEAR, SHARE, change, far_error, force_cells
from .drawing import curves
from .experiment import Experiment, Row, Training, Verdict
from .lab import Lab

RADIUS, GEOMETRY, INCREASE, FAR_INCREASE = "radius (Å)", "geometry", "increase", "increase far from it"
EVERYTHING = "all atoms"
FOURIER = (3.0, 5.0, 8.0)  # Å
PAIRWISE, PRESET = (3.0, 4.0, 5.0, 6.5), 5.0


class AttentionRadius(Experiment):
    name = "attention-radius"
    title = "Attention within a radius"
    question = "How much do errors grow when atoms may attend only to atoms within a radius?"
    paper = "errors grow when attention is restricted, so global attention is needed"
    columns = {GEOMETRY: "", RADIUS: "", **ERRORS, FAR: ".1f", INCREASE: "+.0%", FAR_INCREASE: "+.0%"}

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from (training for variants in _variants().values() for training in variants.values())

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = []
        for geometry, variants in _variants().items():
            found = {radius: lab.errors(training) for radius, training in variants.items()}
            widest = list(found.values())[-1]
            for radius, metrics in found.items():
                far, far_widest = far_error(metrics), far_error(widest)
                increases = {
                    INCREASE: metrics["force_mae_mev_per_ang"] / widest["force_mae_mev_per_ang"] - 1,
                    FAR_INCREASE: far / far_widest - 1 if far and far_widest else None,
                }
                rows.append({GEOMETRY: geometry, RADIUS: radius, **force_cells(metrics), FAR: far, **increases})
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        series = {}
        for geometry in ("fourier", "pairwise"):
            bounded = [row for row in rows if row[GEOMETRY] == geometry and row[RADIUS] != EVERYTHING]
            series[geometry] = [float(row[RADIUS]) for row in bounded], [row[MAE] for row in bounded]
        (everything,) = (row[MAE] for row in rows if row[RADIUS] == EVERYTHING)
        level = ("fourier, all atoms", everything)
        curves({MAE: series}, path, "radius (Å)", logarithmic=False, level=level)

    def reading(self, rows: Sequence[Row]) -> str:
        parts = []
        for geometry, what in (("fourier", "attention"), ("pairwise", "the cutoff")):
            own = [row for row in rows if row[GEOMETRY] == geometry]
            first, last = own[0], own[-1]
            best = min(own, key=lambda row: row[MAE])
            parts.append(
                f"With {geometry} geometry, {what} of {first[RADIUS]} Å gives {first[MAE]:.1f} meV/Å where "
                f"{_named(last)} gives {last[MAE]:.1f} ({change(last[MAE], first[MAE])}; near the defect "
                f"{change(last[NEAR], first[NEAR])}, far from it {change(last[FAR], first[FAR])}). "
                f"The best is {_named(best)}."
            )
        return " ".join(parts)

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        own = [row for row in rows if row[GEOMETRY] == "fourier"]
        everything, restricted = own[-1], own[:-1]
        if everything[SHARE] > HOPELESS:
            return "not comparable", "with coordinates as tokens next to nothing is learned at this size"
        worse = [row for row in restricted if row[INCREASE] > CHANCE]
        better = [row for row in restricted if row[INCREASE] < -CHANCE]
        text = (
            f"with coordinates as tokens, of {len(restricted)} radii {len(worse)} are worse than all atoms by more "
            f"than {CHANCE:.0%}, and {len(better)} better"
        )
        return ("reproduced" if len(worse) == len(restricted) else "not reproduced"), text


def _named(row: Row) -> str:
    return "attention to all atoms" if row[RADIUS] == EVERYTHING else f"{row[RADIUS]} Å"


def _variants() -> dict[str, dict[str, Training]]:
    """By geometry and radius, the widest last."""
    fourier = {f"{radius:g}": Training("fourier-small", {"attention_radius": radius}, cost=2) for radius in FOURIER}
    pairwise = {
        f"{cutoff:g}": Training("pairwise-small", {"pairwise_cutoff": cutoff}, cost=(cutoff / 5) ** 2)
        for cutoff in PAIRWISE
    }
    pairwise[f"{PRESET:g}"] = Training("pairwise-small")
    return {"fourier": fourier | {EVERYTHING: Training("fourier-small")}, "pairwise": pairwise}
