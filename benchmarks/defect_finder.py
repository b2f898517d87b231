"""
Makes defects whose sites are known and counts how many of them the defect finder finds: distorted starts, the way of
their relaxation, its end, and starts and ends with the noise of a warm crystal. A site counts as found where the
finder puts one of the same kind within 1.5 Å of it. The crystal's origin lies elsewhere each time.

    python benchmarks/defect_finder.py --structures 30
"""

import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
from ase import Atoms
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from modeling_adapt.cli.command_line import CommandParser, run_command, whole_number
from modeling_adapt.crystal.defect_sites import find_defects
from modeling_adapt.crystal.minimum_image import shortest_images
from modeling_adapt.data.defects.distortion import distort
from modeling_adapt.data.defects.kinds import STRUCTURE_KINDS, silicon_supercell
from modeling_adapt.data.defects.labelling import erhart_albe, relaxation_trajectory
from modeling_adapt.errors import InputError
from modeling_adapt.tables import format_table

NEAR = 1.5  # Å; less than from a site of silicon to the next
NOISE = 0.08  # Å a component: silicon at 300 K
STAGES = ("start", "start, warm", "on the way", "relaxed", "relaxed, warm")
COUNTS = ("structures", "refused", "sites", "found", "invented", "kinds right")


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__, "example:\n  python benchmarks/defect_finder.py --structures 3")
    parser.add_argument("--structures", type=whole_number(1), default=30, help="starts of each kind (default 30)")
    arguments = parser.parse_args(argv)
    rows = []
    for kind in tqdm(STRUCTURE_KINDS, "kinds", disable=None):
        tally: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
        for number in range(arguments.structures):
            for stage, atoms, sites, kinds in defects(kind, number):
                tally[stage].update(counted(atoms, sites, kinds))
        rows += [(kind, stage, *(str(tally[stage][name]) for name in COUNTS)) for stage in STAGES]
    total = [str(sum(int(row[2 + column]) for row in rows)) for column in range(len(COUNTS))]
    print(format_table(("kind", "stage", *COUNTS), [*rows, ("all", "", *total)]))


def defects(kind: str, number: int) -> Iterator[tuple[str, Atoms, np.ndarray, list[str]]]:
    """Stage, structure, positions (K, 3) and kinds of its sites for one start and what becomes of it."""
    rng = np.random.default_rng([list(STRUCTURE_KINDS).index(kind), number])
    start = distort(STRUCTURE_KINDS[kind](silicon_supercell(), rng), rng, strain=0.01)
    shift = rng.uniform(-5, 5, 3)

    def shown(stage: str, atoms: Atoms, noise: float = 0.0) -> tuple[str, Atoms, np.ndarray, list[str]]:
        moved = atoms.copy()
        moved.positions += shift + noise * rng.normal(size=moved.positions.shape)
        moved.wrap()
        return stage, moved, start.site_positions(atoms.positions) + shift, list(start.site_kinds)

    yield shown("start", start.atoms)
    yield shown("start, warm", start.atoms, NOISE)
    frames = relaxation_trajectory(start.atoms, erhart_albe(), frames=6, max_steps=80).frames
    yield from (shown("on the way", frame.atoms) for frame in frames[1:-1])
    yield shown("relaxed", frames[-1].atoms)
    yield from (shown("relaxed, warm", frames[-1].atoms, NOISE) for _ in range(3))


def counted(atoms: Atoms, sites: np.ndarray, kinds: list[str]) -> dict[str, int]:
    """`COUNTS` of one structure with these sites (K, 3) in Å."""
    counts = {"structures": 1, "sites": len(sites)}
    try:
        found = find_defects(atoms)
    except InputError:
        return counts | {"refused": 1}
    hits = 0
    if found and len(sites):
        offsets = shortest_images(
            np.array([[one.position - site for site in sites] for one in found]).reshape(-1, 3),
            atoms.cell.array,
            atoms.pbc,
        )
        distances = np.linalg.norm(offsets, axis=1).reshape(len(found), len(sites))
        same_kind = np.array([[one.kind == kind for kind in kinds] for one in found])
        cost = np.where(same_kind, distances, 1e3)
        hits = int((cost[linear_sum_assignment(cost)] < NEAR).sum())
    right = Counter(one.kind for one in found) == Counter(kinds)
    return counts | {"found": hits, "invented": len(found) - hits, "kinds right": int(right)}


if __name__ == "__main__":
    sys.exit(run_command(main))
