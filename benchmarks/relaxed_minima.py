"""
Relaxes unseen defects with a model and with the potential that labelled its data, and counts how many end in the
potential's own minimum.

    python benchmarks/relaxed_minima.py runs/defects --starts 30
"""

import sys
from collections import Counter

import numpy as np
from tqdm import trange

from modeling_adapt.cli.command_line import CommandParser, positive_number, run_command, whole_number
from modeling_adapt.crystal.minimum_image import largest_displacement
from modeling_adapt.data.defects.distortion import distort
from modeling_adapt.data.defects.kinds import STRUCTURE_KINDS, silicon_supercell
from modeling_adapt.data.defects.labelling import erhart_albe
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.relaxation import relax
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
    arguments = parser.parse_args(argv)
    kinds = arguments.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in STRUCTURE_KINDS]:
        raise InputError(f"--kinds: there is no kind {unknown[0]!r}; there are {', '.join(STRUCTURE_KINDS)}")

    model, potential, host = ADAPTCalculator.from_pretrained(arguments.model), erhart_albe(), silicon_supercell()
    shifts: dict[str, list[float]] = {kind: [] for kind in kinds}
    converged: Counter[str] = Counter()
    for number in trange(arguments.starts, disable=None):
        kind = kinds[number % len(kinds)]
        rng = np.random.default_rng([arguments.seed, number])
        start = distort(STRUCTURE_KINDS[kind](host, rng), rng).atoms
        ours, theirs = (relax(start, one, arguments.fmax, steps=500) for one in (model, potential))
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


if __name__ == "__main__":
    sys.exit(run_command(main))
