"""What does a model of energies make of the total charge of a structure?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modeling_adapt.errors import InputError
from modeling_adapt.feature_extraction_adapt import charge_of

from .experiment import CHARGED, Experiment, Row, Training, Verdict
from .lab import Lab, defect_of
from .shared import DATA, curves, grouped, number

DEFECT, CHARGE, TRAINED, UNSEEN, ENERGY = "defect", "charge", "frames", "unseen", "energy (eV)"
TOLD, BLIND, OWN, NEVER = "told it", "not told", "one model each", "charge never seen"
SAID, SAID_NEVER = "energy by told it", "energy by charge never seen"
WANTED = 2.0  # times as large without the charge


class Charges(Experiment):
    name = "charges"
    title = "Charge as an input"
    question = (
        "How large is the error of the energy of a whole structure (eV) when the model is told its charge, when it is "
        "not, when each charge has a model of its own, and of a charge that was in no training?"
    )
    paper = "tokens of coordinates and elements; a charge is no input"
    columns = {
        **{DATA: "", DEFECT: "", CHARGE: "+d", TRAINED: "d", UNSEEN: "d", ENERGY: ".2f"},
        **dict.fromkeys((TOLD, BLIND, OWN, NEVER), ".3f"),
        **dict.fromkeys((SAID, SAID_NEVER), ".2f"),
    }
    about_charges = True
    minutes = 1

    def trainings(self, lab: Lab) -> Iterator[Training]:
        for data in lab.data.charged:
            yield from (_told(data), _blind(data))
            for charge in _charges(lab, data):
                yield from (_of_one(data, charge), _without(data, charge))

    def measure(self, lab: Lab) -> list[dict[str, Any]]:
        rows = [row for data in lab.data.charged for row in _rows(lab, data)]
        if not rows:
            raise InputError(f"{self.name}: no defect has five frames in a charge, so that one could be unseen")
        return rows

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
        for (data, defect), own in grouped(rows, DATA, DEFECT).items():
            if len(own) < 2:
                continue
            names = {ENERGY: "labels", SAID: TOLD, SAID_NEVER: NEVER}
            panels[f"{data}\n{defect}: energy (eV)"] = {
                name: ([row[CHARGE] for row in own], [row[heading] for row in own]) for heading, name in names.items()
            }
        curves(panels, path, "charge (e)", log_scale=False, floor=None)

    def reading(self, rows: Sequence[Row]) -> str:
        parts = []
        for (data,), own in grouped(rows, DATA).items():
            told, blind, alone, never = (_mean(own, heading) for heading in (TOLD, BLIND, OWN, NEVER))
            parts.append(
                f"On {data} ({sum(row[UNSEEN] for row in own)} unseen frames, {sum(row[TRAINED] for row in own)} "
                f"trained on) the energy of a structure is {number(told, '.3f')} eV off with the charge as an input, "
                f"{number(blind, '.3f')} without, {number(alone, '.3f')} with a model for each charge; of a charge "
                f"that the model has never seen it is {number(never, '.3f')} eV off."
            )
        few = (
            "These are few frames, of few relaxations, and unseen ones have neighbours in the training: they tell "
            "whether a model can keep charges apart, not how it does on other defects."
        )
        return " ".join([*parts, few])

    def verdict(self, rows: Sequence[Row]) -> tuple[Verdict, str]:
        factors = {data: _mean(own, BLIND) / _mean(own, TOLD) for (data,), own in grouped(rows, DATA).items()}
        said = ", ".join(f"{factor:.1f} times as large on {data}" for data, factor in factors.items())
        return "new here", f"without the charge the errors are {said}"


def _rows(lab: Lab, data: str) -> Iterator[dict[str, Any]]:
    """One for each defect in each charge that has unseen frames."""
    train, unseen = (lab.data.rows(data, split, "energy") for split in ("train", "test"))
    states, trained = (list(zip(rows["config_type"], rows["charge"], strict=True)) for rows in (unseen, train))
    told, labels = lab.energies(_told(data))
    blind, _ = lab.energies(_blind(data))
    charges = _charges(lab, data)
    own, never = np.empty_like(told), np.empty_like(told)
    for charge in charges:
        chosen = np.array([one == charge for _, one in states])
        own[chosen], _ = lab.energies(_of_one(data, charge), data, charge)
        never[chosen], _ = lab.energies(_without(data, charge), data, charge)
    zero = _levels(states, labels)
    for state in sorted(set(states)):
        chosen = np.array([one == state for one in states])
        errors = {TOLD: told, BLIND: blind, OWN: own, NEVER: never}
        energies = {ENERGY: labels, SAID: told, SAID_NEVER: never}
        yield {
            **{DATA: data.removeprefix(f"{CHARGED} "), DEFECT: state[0], CHARGE: round(state[1])},
            **{TRAINED: trained.count(state), UNSEEN: int(chosen.sum())},
            **{name: float(np.abs(values - labels)[chosen].mean()) for name, values in errors.items()},
            **{name: float(values[chosen].mean()) - zero[state[0]] for name, values in energies.items()},
        }


def _levels(states: Sequence[tuple[str, float]], labels: np.ndarray) -> dict[str, float]:
    """Energy in eV from which those of each defect are counted: of its charge nearest to 0."""
    levels = {}
    for defect in {defect for defect, _ in states}:
        nearest = min((charge for one, charge in states if one == defect), key=abs)
        levels[defect] = float(labels[[state == (defect, nearest) for state in states]].mean())
    return levels


def _charges(lab: Lab, data: str) -> list[float]:
    """Those of which there are enough frames that some are unseen."""
    frames = lab.data.frames(data)
    states = [(defect_of(atoms), charge_of(atoms)) for atoms in frames]
    return sorted({charge for defect, charge in states if states.count((defect, charge)) > 2})


def _told(data: str) -> Training:
    return _training(data, {"reads_charge": True})


def _blind(data: str) -> Training:
    return _training(data, {"charge": "any"})


def _of_one(data: str, charge: float) -> Training:
    return _training(data, {"charge": f"{charge:g}"})


def _without(data: str, charge: float) -> Training:
    return _training(f"{data} without {charge:+g}", {"reads_charge": True})


def _training(data: str, options: dict[str, Any]) -> Training:
    """Small models: nearly the same structures are to be told apart, and there are many trainings."""
    small = {"num_hidden_layers": 1, "pairwise_cutoff": 4.0, "per_device_train_batch_size": 2}
    return Training("pairwise-energy", {**small, **options}, data, steps=400, cost=0.3)


def _mean(rows: Sequence[Row], heading: str) -> float:
    """Over unseen frames."""
    return float(np.average([row[heading] for row in rows], weights=[row[UNSEEN] for row in rows]))
