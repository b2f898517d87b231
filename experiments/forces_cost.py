"""
Milliseconds and MB of the forces on silicon off its sites, as one line of JSON, in a process of its own:

    python -m experiments.forces_cost MODEL sdpa 5
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from ase.build import bulk

from modeling_adapt.loading import load_model
from modeling_adapt.modeling_adapt import forces_of

REPEATS = 3


def main(folder: str, attention: str, repeat: str) -> None:
    model, feature_extractor = load_model(folder)
    if model.config.traits.attends:
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


def forget_peak() -> None:
    """
    From now on [`peak_megabytes`] counts anew. A process begins with the peak of the one that started it, so without
    this what a small piece of work takes would go unseen.
    """
    if (switch := Path("/proc/self/clear_refs")).exists():  # Linux; elsewhere the peak is of the whole process
        switch.write_text("5")


def peak_megabytes() -> float:
    """Resident memory at its largest, in MB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
