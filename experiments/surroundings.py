"""On which machine, at which size and in which time the experiments ran."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modeling_adapt.files import write_whole

from .experiment import REAL
from .lab import Lab

SURROUNDINGS = "surroundings.json"
_PACKAGES = ("torch", "transformers", "ase", "matscipy")


def write_surroundings(lab: Lab, trainings: int, seconds: float) -> None:
    """Writes them into the folder of the results; `seconds` is the sum over the trainings."""
    found: dict[str, Any] = {
        "scale": lab.scale,
        "cores": os.cpu_count(),
        "jobs": lab.jobs,
        "trainings": trainings,
        "minutes of training": round(seconds / 60, 1),
        "structures": lab.data.sizes(),
        "versions": {package: version(package) for package in _PACKAGES},
    }
    write_whole(lab.folder / SURROUNDINGS, json.dumps(found, indent=2) + "\n")


def about(path: Path) -> str:
    """The same as sentences."""
    found = json.loads(path.read_text(encoding="utf-8"))
    sets = ", ".join(
        f"{name} ({', '.join(f'{count:,d} {split}' for split, count in counts.items())})"
        for name, counts in found["structures"].items()
    )
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    real = (
        f"; {REAL} is the real DFT data. Experiments without it need what these do not have (carbon, equal structures "
        "in cells of several sizes, several kinds among the unseen structures), or the potential itself"
    )
    return (
        f"All of it at scale {found['scale']:g}: {found['trainings']} trainings of together "
        f"{found['minutes of training']:.0f} minutes, {found['jobs']} at a time on {found['cores']} cores "
        f"({versions}). Data sets: {sets}. The generated ones are labelled with an empirical potential (Erhart and "
        f"Albe), not with DFT{real if REAL in found['structures'] else ''}."
    )
