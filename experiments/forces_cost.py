"""
Milliseconds and MB of the forces on silicon off its sites, as one line of JSON, in a process of its own:

    python -m experiments.forces_cost MODEL sdpa 5
"""

import json
import sys
import time

import numpy as np
from ase.build import bulk

from modeling_adapt.loading import load_model
from modeling_adapt.modeling_adapt import forces_of

from .memory import forget_peak, peak_megabytes

REPEATS = 3


def main(folder: str, attention: str, repeat: str) -> None:
    model, feature_extractor = load_model(folder)
    if model.config.geometry != "pairwise":  # which has no attention of that kind
        model.set_attn_implementation(attention)
    atoms = bulk("Si", a=5.43, cubic=True) * int(repeat)
    atoms.rattle(0.05, seed=0)
    forces_of(model, **feature_extractor(atoms[:8]))
    forget_peak()
    before, times = peak_megabytes(), []
    for _ in range(REPEATS):
        began = time.perf_counter()
        forces_of(model, **feature_extractor(atoms))
        times.append(time.perf_counter() - began)
    print(json.dumps({"ms": 1000 * float(np.median(times)), "mb": max(1.0, peak_megabytes() - before)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
