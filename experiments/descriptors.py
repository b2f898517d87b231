"""Which element descriptors does a token need?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modeling_adapt.configuration.configuration_adapt import DESCRIPTOR_CHOICES

from .experiment import SMALL_CELLS, Experiment, Row, Training, Verdict
from .lab import Lab
from .shared import BY_CHANCE, CHANCE, ERRORS, MAE, bars, chance, change, force_cells

TOKENS, CHANGE = "what a token says of its element", "change"
NINE = [name for name in DESCRIPTOR_CHOICES if name != "atomic_number"]
ALL, NUMBER, EMBEDDED = "all nine descriptors", "atomic number only", "a learned vector (one-hot)"
SEEDS = (1, 2)  # beside 0
BLIND = ("without group", "without valence_electrons")  # of which carbon and silicon have the same
SAME = (*BLIND, *(f"all nine, seed {seed}" for seed in SEEDS))  # which differ from all nine by chance


class Descriptors(Experiment):
    name = "descriptors"
    title = "Element descriptors"
    question = "What do the nine descriptors bring beside the atomic number, and is any one of them missed?"
    paper = "tokens of coordinates and nine descriptors; the question of what each brings is left open"
    columns = {TOKENS: "", **ERRORS, CHANGE: "+.0%"}

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from (_training(options) for options in _variants().values())

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows, reference = [], lab.errors(_training({}))["force_mae_mev_per_ang"]
        for label, options in _variants().items():
            cells = force_cells(lab.errors(_training(options)))
            rows.append({TOKENS: label, **cells, CHANGE: cells[MAE] / reference - 1})
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        bars({row[TOKENS]: {"all atoms": row[MAE]} for row in rows}, path, MAE, ".1f", chance, BY_CHANCE)

    def reading(self, rows: Sequence[Row]) -> str:
        named = {row[TOKENS]: row for row in rows}
        everything, number, learned = (named[label] for label in (ALL, NUMBER, EMBEDDED))
        without = [row for label, row in named.items() if label.startswith("without")]
        worst, best = max(without, key=lambda row: row[MAE]), min(without, key=lambda row: row[MAE])
        by_chance = ", ".join(f"{change(everything[MAE], named[label][MAE])} ({label})" for label in SAME)
        return (
            f"On silicon with carbon in cells of 64 atoms, all nine descriptors give {everything[MAE]:.1f} meV/Å, the "
            f"atomic number alone {number[MAE]:.1f} ({change(everything[MAE], number[MAE])}) and a learned vector "
            f"{learned[MAE]:.1f} ({change(everything[MAE], learned[MAE])}). Leaving out one descriptor changes the "
            f"error by {change(everything[MAE], best[MAE])} ({best[TOKENS]}) to {change(everything[MAE], worst[MAE])} "
            f"({worst[TOKENS]}). Carbon and silicon have the same group and as many valence electrons, so leaving out "
            f"one of these differs by chance alone, as another seed does: {by_chance}. Each of the others tells the "
            "two apart. What descriptors are for, elements that the training has few of, two cannot tell."
        )

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        chance = max(abs(row[CHANGE]) for row in rows if row[TOKENS] in SAME)
        beyond = [row for row in rows if row[TOKENS] not in SAME and abs(row[CHANGE]) > max(chance, CHANCE)]
        names = ", ".join(f"{row[TOKENS]} ({row[CHANGE]:+.0%})" for row in beyond) or "none"
        text = f"with two elements, variants that differ by more than chance ({max(chance, CHANCE):.0%}): {names}"
        return "new here", text


def _variants() -> dict[str, dict[str, Any]]:
    variants: dict[str, dict[str, Any]] = {ALL: {}, NUMBER: {"descriptors": ["atomic_number"]}}
    variants[EMBEDDED] = {"descriptors": [], "element_embedding_size": 8}
    variants |= {f"all nine, seed {seed}": {"seed": seed} for seed in SEEDS}
    for left_out in NINE:
        variants[f"without {left_out}"] = {"descriptors": [name for name in NINE if name != left_out]}
    return variants


def _training(options: dict[str, Any]) -> Training:
    return Training("pairwise-small", options, SMALL_CELLS)
