"""Do relaxations with the model end where the potential that labelled its data would end?"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from scipy.stats import spearmanr
from tqdm import tqdm

from modeling_adapt.crystal.minimum_image import delta_q, displacements, largest_displacement
from modeling_adapt.data.defects.distortion import distort
from modeling_adapt.data.defects.kinds import STRUCTURE_KINDS, silicon_supercell
from modeling_adapt.data.defects.labelling import erhart_albe
from modeling_adapt.simulation.relaxation import relax

from .experiment import LEARNS_FORCES, Experiment, Row, Training, Verdict
from .lab import Lab
from .shared import bars, number, of_percent

MODEL, STARTS, LOOSE, TIGHT, STEPS = "forces by", "starts", "fmax < 0.05", "fmax < 0.01", "steps to 0.05 (median)"
DISTANCE, WITHIN, QUEUE = "largest displacement (Å, median)", "within 0.05 Å", "ΔQ (amu^1/2 Å, median)"
RANKING = "ranking (Spearman)"
KINDS = ("vacancy", "interstitial_tetrahedral", "interstitial_split_110", "interstitial_hexagonal")
STARTS_OF_A_KIND, MOST_STEPS, SEED = 4, 300, 1000
ENERGY = Training("pairwise-energy", LEARNS_FORCES)
MODELS = {
    "pairwise": Training("pairwise-small"),
    "pairwise energy and gradient": ENERGY,
    "fourier": Training("fourier-small"),
}


class Relaxation(Experiment):
    name = "relaxation"
    title = "Relaxations"
    question = (
        "Do start structures end in the minima of the potential that labelled the data, and are they ranked alike?"
    )
    paper = "relaxed structures close to those of DFT; the forces are made for relaxation"
    columns = {
        **{MODEL: "", STARTS: "d", LOOSE: ".0%", TIGHT: ".0%", STEPS: ".0f", DISTANCE: ".3f", WITHIN: ".0%"},
        **{QUEUE: ".2f", RANKING: ".2f"},
    }
    minutes = 8
    about_silicon = True

    def trainings(self, lab: Lab) -> Iterator[Training]:
        yield from MODELS.values()

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        potential = erhart_albe()
        found = [(start, relax(start, potential, 0.005, 1000)) for start in tqdm(_starts(), "minima", disable=None)]
        starts = [start for start, minimum in found if minimum.status == "converged"]
        minima = [minimum.atoms for _, minimum in found if minimum.status == "converged"]
        truth = [_energy(atoms, potential) for atoms in minima]
        judge = lab.calculator(ENERGY)
        rows = []
        for name, training in MODELS.items():
            calculator = lab.calculator(training)
            ends, loose, tight = [], [], []
            for start, minimum in zip(tqdm(starts, name, disable=None), minima, strict=True):
                largest: list[float] = []

                def see(_: int, force: float, seen: list[float] = largest) -> None:
                    seen.append(force)

                end = relax(start, calculator, 0.01, MOST_STEPS, on_step=see)
                ends.append(_placed_on(minimum, end.atoms))
                loose.append(next((step for step, force in enumerate(largest) if force < 0.05), None))
                tight.append(end.status == "converged")
            reached = [steps for steps in loose if steps is not None]
            moved = np.array([largest_displacement(*pair) for pair in zip(minima, ends, strict=True)])
            rows.append(
                {
                    MODEL: name,
                    STARTS: len(starts),
                    LOOSE: len(reached) / len(starts),
                    TIGHT: float(np.mean(tight)),
                    STEPS: float(np.median(reached)) if reached else None,
                    DISTANCE: float(np.median(moved)),
                    WITHIN: float(np.mean(moved < 0.05)),
                    QUEUE: float(np.median([delta_q(*pair) for pair in zip(minima, ends, strict=True)])),
                    RANKING: _ranking(minima, truth, [_energy(atoms, judge) for atoms in ends]),
                }
            )
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        groups = {
            row[MODEL]: {
                "fmax below 0.05 eV/Å": 100 * row[LOOSE],
                "fmax below 0.01 eV/Å": 100 * row[TIGHT],
                "within 0.05 Å of the minimum": 100 * row[WITHIN],
            }
            for row in rows
        }
        starts = rows[0][STARTS]
        said = f"n = {starts} starts; error bars: 95 % interval of a share (Wilson)"
        bars(groups, path, "share of the starts in %", ".0f", of_percent(starts), said)

    def reading(self, rows: Sequence[Row]) -> str:
        parts = [
            f"with {row[MODEL]}, {row[LOOSE]:.0%} converge to 0.05 eV/Å and {row[TIGHT]:.0%} to 0.01 within "
            f"{MOST_STEPS} steps, {row[WITHIN]:.0%} end within 0.05 Å of the minimum (median {row[DISTANCE]:.3f} Å, "
            f"ΔQ {row[QUEUE]:.2f} amu^1/2 Å)"
            for row in rows
        ]
        ranked = " and ".join(f"{number(row[RANKING], '.2f')} ({row[MODEL]})" for row in rows)
        return (
            f"Of {rows[0][STARTS]} starts: {'; '.join(parts)}. The energies of the pooled model at the ends rank "
            f"those of one composition as the potential ranks its minima with a rank correlation of {ranked}."
        )

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        met = ", ".join(f"{row[WITHIN]:.0%} with {row[MODEL]}" for row in rows)
        return "not comparable", f"the labels are those of an empirical potential; minima that are met: {met}"


def _starts() -> list[Atoms]:
    """Distorted defects, the same at every call."""
    host, starts = silicon_supercell(), []
    for index in range(STARTS_OF_A_KIND * len(KINDS)):
        kind = KINDS[index % len(KINDS)]
        rng = np.random.default_rng([SEED, index])
        starts.append(distort(STRUCTURE_KINDS[kind](host, rng), rng).atoms)
    return starts


def _placed_on(minimum: Atoms, end: Atoms) -> Atoms:
    """`end` without the shift of the whole crystal, which is none of a defect."""
    placed = end.copy()
    placed.positions -= displacements(minimum, end).mean(axis=0)
    return placed


def _energy(atoms: Atoms, calculator: Calculator) -> float:
    atoms = atoms.copy()
    atoms.calc = calculator
    return atoms.get_potential_energy()


def _ranking(structures: list[Atoms], truth: list[float], predicted: list[float]) -> float | None:
    """Mean rank correlation over the compositions, weighted with the number of candidates."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, atoms in enumerate(structures):
        groups[len(atoms)].append(index)
    found, counts = [], []
    for group in groups.values():
        # Candidates that end in one minimum have one energy; without this, noise of 1e-6 eV would be ranked.
        pair = [np.round([values[index] for index in group], 2) for values in (truth, predicted)]
        if all(len(set(values)) > 1 for values in pair):
            found.append(float(spearmanr(*pair).statistic))
            counts.append(len(group))
    return float(np.average(found, weights=counts)) if found else None
