"""Training data without DFT: trajectories of random defects in a crystal, labelled with a potential."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from importlib.metadata import metadata, packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from ...errors import InputError
from ..build.building import Built, Notes, build_dataset
from ..build.writing import Divide
from ..options import GenerationPlan
from ..structures import structure_row
from . import ionic
from .distortion import BOND_FACTORS, distort
from .kinds import STRUCTURE_KINDS, THERMAL_KINDS, Defect, silicon_supercell
from .labelling import Trajectory, dynamics_trajectory, load_calculator, relaxation_trajectory

_BLOCK = 10  # trajectories made by one process at a time, which a killed run loses


def generate_dataset(
    folder: str | Path,
    structures: int,
    plan: GenerationPlan,
    divide: Divide,
    num_proc: int = 1,
) -> Built:
    """Writes a data set of `structures` labelled frames with [`build_dataset`].

    Every trajectory has its own random stream, made of the seed and its number: the same plan gives the same data
    whatever the number of processes, and the first structures of a larger data set are those of a smaller one. Notes
    of the parts hold `dropped`, the number of frames with absurd forces, and `failures`, one line for each trajectory
    that the calculator ended by an error.

    Args:
        folder (`str` or `Path`): Must not exist or be empty.
        structures (`int`): Rows to make.
        plan ([`GenerationPlan`]): What to make.
        divide (`Divide`): Rows to splits, as [`build_dataset`] wants it.
        num_proc (`int`, defaults to `1`): Processes; each starts with a calculator of its own.

    Raises:
        [`InputError`]: The calculator cannot be made, or ten trajectories in a row have not one usable frame.
    """
    most = min(structures, _BLOCK * plan.frames)
    blocks = ([first, most] for first in itertools.count(0, _BLOCK))
    return build_dataset(
        folder,
        blocks,
        partial(generate_block, plan),
        divide,
        plan=asdict(plan),
        limit=structures,
        num_proc=num_proc,
        description="labelling defects",
        provenance=partial(_provenance, plan),
    )


def _provenance(plan: GenerationPlan, notes: list[Notes]) -> dict[str, Any]:
    failures = [failure for note in notes for failure in note["failures"]]
    return {
        "command": "data_scripts/generate_defects.py",
        **asdict(plan),
        "kinds": ", ".join(plan.kinds),
        "versions": ", ".join(f"{package} {version(package)}" for package in ("ase", "matscipy")),
        "calculator's package": _package_of(plan.calculator),
        "dropped for absurd forces": sum(note["dropped"] for note in notes),
        "ended by an error of the calculator": "; ".join(failures) or "none",
    }


def _package_of(calculator: str) -> str:
    """Name, version and licence of what `module:factory` was installed with."""
    names = packages_distributions().get(calculator.partition(".")[0].partition(":")[0])
    if not names:
        return "none that is installed"
    told = metadata(names[0])
    licence = next((told[name] for name in ("License-Expression", "License") if name in told), "not told")
    return f"{names[0]} {told['Version']}, licence {licence}"


def generate_block(plan: GenerationPlan, block: list[int], notes: Notes) -> Iterator[dict[str, Any]]:
    """Rows of the trajectories from number `block[0]` on: those of a whole block, or `block[1]` if they are fewer."""
    first, most = block
    calculator = load_calculator(plan.calculator)  # a new one: what it remembers must not decide what comes out
    if plan.host == "Si":
        host = silicon_supercell(plan.lattice_constant, plan.repeat)
    else:
        host = ionic.ionic_supercell(plan.host, plan.lattice_constant, plan.repeat)
    made, dropped, failures = 0, 0, []
    for number in range(first, first + _BLOCK):
        kind = plan.kinds[number % len(plan.kinds)]
        name = f"seed-{plan.seed}-{number:05d}-{kind}"
        defect, trajectory = _trajectory(plan, kind, host, calculator, np.random.default_rng([plan.seed, number]))
        dropped += trajectory.dropped
        if trajectory.failure is not None:
            failures.append(f"{name}: {trajectory.failure}")
        for index, frame in enumerate(trajectory.frames[: most - made]):
            yield structure_row(
                frame.atoms,
                frame.forces,
                frame.energy,
                charge=None if plan.host == "Si" else ionic.net_charge(frame.atoms),
                defect_sites=defect.site_positions(frame.atoms.positions),
                defect_kinds=defect.site_kinds,
                config_type=kind,
                trajectory=name,
                source=f"generated#{number}.{index}",
            )
            made += 1
        if made == most:
            break
    if not made:
        reason = f"the calculator fails, first on {failures[0]}" if failures else "check calculator and lattice"
        raise InputError(f"{_BLOCK} trajectories in a row without a frame, {dropped} with absurd forces; {reason}")
    notes.update(dropped=dropped, failures=failures)


def _trajectory(
    plan: GenerationPlan, kind: str, host: Atoms, calculator: Calculator, rng: np.random.Generator
) -> tuple[Defect, Trajectory]:
    """A random structure of this kind as it starts, and what becomes of it."""
    silicon = plan.host == "Si"
    ideal = (STRUCTURE_KINDS if silicon else ionic.IONIC_KINDS)[kind](host, rng)
    heated = bool(rng.random() < plan.md_share) or kind in THERMAL_KINDS
    # Distorted bonds would heat a run by thousands of kelvins; its thermal motion distorts enough.
    factors = (0.0,) if heated else BOND_FACTORS if silicon else ionic.BOND_FACTORS
    start = distort(ideal, rng, bond_factors=factors, rattle=plan.rattle, strain=plan.strain)
    if not heated:
        return start, relaxation_trajectory(start.atoms, calculator, frames=plan.frames, max_steps=plan.steps)
    temperature = plan.temperature * rng.uniform(0.25, 1.0)
    return start, dynamics_trajectory(
        start.atoms, calculator, rng, temperature=temperature, frames=plan.frames, steps=plan.md_steps
    )
