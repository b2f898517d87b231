"""Training data without DFT: relaxations of random point defects, labelled with an interatomic potential."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator

from ..errors import InputError
from .defects import DEFECT_KINDS, SILICON_LATTICE_CONSTANT, STRUCTURE_KINDS, distort, silicon_supercell
from .labelling import Relaxation, relaxation_trajectory
from .structures import structure_row

_FUTILE = 10  # trajectories in a row without a usable frame, after which the calculator is to blame


def generate_structures(
    count: int,
    calculator: Calculator,
    *,
    seed: int = 0,
    frames: int = 10,
    max_steps: int = 60,
    lattice_constant: float = SILICON_LATTICE_CONSTANT,
    repeat: int = 3,
    rattle: float = 0.04,
    strain: float = 0.0,
    kinds: Sequence[str] = tuple(DEFECT_KINDS),
    progress: Callable[[int], Any] = lambda _: None,
) -> tuple[list[dict[str, Any]], int]:
    """Relaxes one random defect after the other, the kinds in turn, until there are enough frames.

    Every trajectory has its own random stream, made of the seed and its number: the first structures of a larger data
    set are those of a smaller one.

    Args:
        count: rows to make.
        frames: rows per trajectory at most.
        max_steps: FIRE steps per trajectory at most.
        lattice_constant: of silicon for this calculator, in Å.
        repeat: cubic cells along each edge of the supercell; 3 gives 216 atoms, 2 gives 64.
        rattle, strain: how far the starts are distorted, see [`distort`].
        kinds: keys of `STRUCTURE_KINDS`.
        progress: called with the number of new rows after every trajectory.

    Returns:
        Rows of [`structure_row`], whose `config_type` is the kind of defect, and the number of frames dropped for
        absurd forces.

    Raises:
        InputError: if the calculator fails, or gives absurd forces only.
    """
    host = silicon_supercell(lattice_constant, repeat)
    rows: list[dict[str, Any]] = []
    dropped = futile = number = 0
    while len(rows) < count:
        rng = np.random.default_rng([seed, number])
        kind = kinds[number % len(kinds)]
        defect = distort(STRUCTURE_KINDS[kind](host, rng), rng, rattle=rattle, strain=strain)
        relaxation = _relax(defect.atoms, calculator, kind, frames=frames, max_steps=max_steps)
        new = relaxation.frames[: count - len(rows)]
        for frame in new:
            rows.append(
                structure_row(
                    frame.atoms,
                    frame.forces,
                    frame.energy,
                    defect_sites=defect.sites(frame.atoms.positions),
                    config_type=kind,
                    trajectory=f"seed-{seed}-{number:05d}-{kind}",
                    source=f"generated#{len(rows)}",
                )
            )
        progress(len(new))
        dropped += relaxation.dropped
        number += 1
        futile = 0 if new else futile + 1
        if futile == _FUTILE:
            raise InputError(f"{dropped} frames of {_FUTILE} defects have absurd forces; check calculator and lattice")
    return rows, dropped


def _relax(atoms: Any, calculator: Calculator, kind: str, **options: int) -> Relaxation:
    try:
        return relaxation_trajectory(atoms, calculator, **options)
    except Exception as error:  # what a calculator raises is its own affair
        raise InputError(f"the calculator fails on {kind}: {type(error).__name__}: {error}") from error
