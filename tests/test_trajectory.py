"""Trajectories are what ASE writes."""

import io

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixCartesian

from modeling_adapt.simulation import trajectory
from modeling_adapt.simulation.relaxation import RelaxationWatch


def _slab():
    atoms = bulk("SiC", "zincblende", 4.36, cubic=True)
    atoms.pbc = (True, True, False)
    atoms.set_constraint(FixAtoms([0, 3]))
    return atoms


def _partly_fixed():
    atoms = bulk("Si", cubic=True)
    atoms.set_constraint(FixCartesian(2, (True, False, True)))
    return atoms


STRUCTURES = {
    "crystal": lambda: bulk("Si", cubic=True),
    "slab": _slab,
    "molecule": lambda: molecule("C6H6"),
    "partly fixed": _partly_fixed,
}


@pytest.mark.parametrize("with_energy", [True, False])
@pytest.mark.parametrize("name", STRUCTURES)
def test_frames_are_to_the_letter_what_ase_writes(tmp_path, name, with_energy, monkeypatch):
    start, random, expected, asked = STRUCTURES[name](), np.random.default_rng(0), io.StringIO(), []
    as_ase = trajectory._as_ase_writes
    monkeypatch.setattr(trajectory, "_as_ase_writes", lambda frame: asked.append(1) or as_ase(frame))
    watch = RelaxationWatch(start, 0.0, trajectory=tmp_path / "t.extxyz")
    for step in range(4):
        forces = random.normal(scale=10.0 ** (3 * step - 3), size=(len(start), 3))
        if step == 3:
            forces[1, 2] = np.nan
        energy = float(random.normal(scale=100.0)) if with_energy else None
        watch.see(start.positions + random.normal(size=forces.shape), forces, energy)
        ase.io.write(expected, watch.frame, format="extxyz")
        assert (tmp_path / "t.extxyz").read_text() == expected.getvalue()  # as soon as it is known
    assert len(asked) == (1 if name != "partly fixed" else 4)  # a column that the pattern does not know
