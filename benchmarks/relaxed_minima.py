"""
Relaxes unseen defects with a model and with the potential that labelled its data, and counts how many end in the
potential's own minimum. With --time, how long the model takes instead, one by one and many at once.

    python benchmarks/relaxed_minima.py runs/defects --starts 30
    python benchmarks/relaxed_minima.py adapt-si --time --starts 10 --fmax 0.05
"""

import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from ase import Atoms
from tqdm import trange

from modeling_adapt.cli.command_line import CommandParser, positive_number, run_command, whole_number
from modeling_adapt.crystal.minimum_image import largest_displacement
from modeling_adapt.data.defects.distortion import distort
from modeling_adapt.data.defects.kinds import STRUCTURE_KINDS, silicon_supercell
from modeling_adapt.data.defects.labelling import erhart_albe
from modeling_adapt.device import keep_freed_memory
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.relaxation import relax, relax_each
from modeling_adapt.tables import format_table

KINDS = "vacancy,interstitial_tetrahedral,interstitial_hexagonal,interstitial_split_110"


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, "example:\n  python benchmarks/relaxed_minima.py runs/defects --starts 30")
    parser.add_argument("model", help="checkpoint trained on data of the Erhart-Albe potential")
    parser.add_argument("--starts", type=whole_number(1), default=32, help="how many (default %(default)s)")
    parser.add_argument("--kinds", default=KINDS, help="of defects, in turn (default %(default)s)")
    parser.add_argument("--seed", type=whole_number(0), default=1000, help="of the starts (default %(default)s)")
    parser.add_argument("--fmax", type=positive_number, default=0.02, help="eV/Å (default %(default)s)")
    parser.add_argument(
        "--tolerance", type=positive_number, default=0.05, help="largest displacement in Å (default %(default)s)"
    )
    parser.add_argument("--repeat", type=whole_number(1), default=3, help="cubic cells along an edge (default: 3)")
    parser.add_argument("--time", action="store_true", help="processor time of the model on one thread")
    arguments = parser.parse_args(argv)
    kinds = arguments.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in STRUCTURE_KINDS]:
        raise InputError(f"--kinds: there is no kind {unknown[0]!r}; there are {', '.join(STRUCTURE_KINDS)}")

    model, potential = ADAPTCalculator.from_pretrained(arguments.model), erhart_albe()
    starts = [start_of(kinds, number, arguments.seed, arguments.repeat) for number in range(arguments.starts)]
    if arguments.time:
        print(times(model, {str(number): start for number, start in enumerate(starts)}, arguments.fmax))
        return
    shifts: dict[str, list[float]] = {kind: [] for kind in kinds}
    converged: Counter[str] = Counter()
    for number in trange(arguments.starts, disable=None):
        kind = kinds[number % len(kinds)]
        ours, theirs = (relax(starts[number], one, arguments.fmax, steps=500) for one in (model, potential))
        shifts[kind].append(largest_displacement(ours.atoms, theirs.atoms))
        converged[kind] += ours.status == "converged"
    everything = [*shifts.items(), ("all", [shift for values in shifts.values() for shift in values])]
    converged["all"] = converged.total()
    rows = [
        (
            kind,
            str(len(values)),
            str(converged[kind]),
            f"{np.mean(np.array(values) < arguments.tolerance):.0%}",
            f"{np.median(values):.3f}",
            f"{np.max(values):.3f}",
        )
        for kind, values in everything
        if values
    ]
    header = ("start", "starts", "converged", f"within {arguments.tolerance:g} Å", "median (Å)", "largest (Å)")
    print(format_table(header, rows))
    print("largest displacement between where the model and where the potential took the same start")


def start_of(kinds: list[str], number: int, seed: int, repeat: int) -> Atoms:
    """A distorted defect, of the kinds in turn."""
    rng = np.random.default_rng([seed, number])
    return distort(STRUCTURE_KINDS[kinds[number % len(kinds)]](silicon_supercell(repeat=repeat), rng), rng).atoms


def times(model: ADAPTCalculator, starts: dict[str, Atoms], fmax: float) -> str:
    """Processor time of both ways, with trajectories, as `relax.py` takes it, and how far apart they end."""
    torch.set_num_threads(1)
    keep_freed_memory()
    rows, ends = [], []
    for way, one_by_one in (("one by one", True), ("at once", False)):
        with TemporaryDirectory() as folder:
            began = time.process_time()
            files = {name: Path(folder) / f"{name}.extxyz" for name in starts}
            results = dict(relax_each(starts, model, fmax, 500, files.get, one_by_one))
            seconds = time.process_time() - began
        steps = sum(result.steps for result in results.values())
        converged = sum(result.status == "converged" for result in results.values())
        rows.append((way, str(converged), str(steps), f"{seconds:.1f}", f"{1000 * seconds / steps:.1f}"))
        ends.append(results)
    apart = max(largest_displacement(ends[0][name].atoms, ends[1][name].atoms) for name in starts)
    table = format_table(("relaxed", "converged", "steps", "processor time (s)", "a step (ms)"), rows)
    return f"{table}\nat most {apart:.4f} Å apart"


if __name__ == "__main__":
    sys.exit(run_command(main))
