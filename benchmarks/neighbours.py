"""
Times the search for neighbours within 5 Å in rattled silicon, by processor time of one core, beside the compiled one
of matscipy and a list that follows moving atoms, and says how its time grows with the number of atoms.

    python benchmarks/neighbours.py --repeats 5
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from ase import Atoms
from ase.build import bulk
from matscipy.neighbours import neighbour_list

from modeling_adapt.cli.command_line import run_command, whole_number
from modeling_adapt.neighbours_adapt import NeighbourList, find_neighbours
from modeling_adapt.tables import format_table

CUTOFF = 5.0  # Å
REPEATS = (3, 6, 11, 23)  # of the cubic cell along each edge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=whole_number(1), default=5, help="timings, of which the median counts")
    arguments = parser.parse_args()
    rows, sizes, times = [], [], []
    for count in REPEATS:
        atoms = bulk("Si", a=5.43, cubic=True).repeat(count)
        atoms.rattle(0.1, seed=0)
        known = NeighbourList(CUTOFF)
        ways = (
            partial(search, atoms),
            partial(known, atoms.positions, atoms.cell.array),
            partial(neighbour_list, "ijS", atoms, CUTOFF),
        )
        ways[1]()  # which searches
        ours, listed, theirs = (median_seconds(way, arguments.repeats) for way in ways)
        sizes.append(len(atoms))
        times.append(ours)
        numbers = (f"{1e3 * ours:.1f}", f"{1e6 * ours / len(atoms):.1f}", f"{1e3 * listed:.1f}", f"{1e3 * theirs:.1f}")
        rows.append((f"{len(atoms):,}", *numbers))
    print(format_table(("atoms", "search (ms)", "per atom (µs)", "list (ms)", "matscipy (ms)"), rows))
    print(f"time grows with the number of atoms to the power of {np.polyfit(np.log(sizes), np.log(times), 1)[0]:.2f}")


def search(atoms: Atoms) -> None:
    find_neighbours(atoms.positions[None], atoms.cell.array[None], np.ones((1, len(atoms)), dtype=bool), CUTOFF)


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Processor time, which other programs disturb least."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return float(np.median(times))


if __name__ == "__main__":
    sys.exit(run_command(main))
