"""Ten kinds of foreign input, and what the calculator makes of each."""

import re

import crystals
import numpy as np
import pytest
from ase import Atoms

from modeling_adapt.crystal.trained_region import fit_domain
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator

# What each comes to is the table of docs/relaxing.md: a line of `TrainingDomain.check` that holds the words given, or
# `SAME`: no line, and the forces of the original, turned along. `None`: no line, as a model whose atoms know only
# their neighbours needs no such training.

SAME = "same forces"


def _other_element(atoms: Atoms) -> None:
    atoms.symbols[7] = "Ge"


def _larger_cell(atoms: Atoms) -> Atoms:
    return atoms * (2, 1, 1)


def _strained(atoms: Atoms) -> None:
    atoms.set_cell(atoms.cell * [1.05, 1, 1], scale_atoms=True)


def _too_close(atoms: Atoms) -> None:
    atoms.positions[0] += 0.3 * (atoms.positions[1] - atoms.positions[0])


def _too_many_atoms(atoms: Atoms) -> Atoms:
    """Two more interstitials, at sites that training had."""
    return atoms + Atoms("Si2", [crystals.TETRAHEDRAL, crystals.TETRAHEDRAL + [crystals.EDGE / 2, 0, 0]])


def _no_cell(atoms: Atoms) -> None:
    atoms.set_cell(None)
    atoms.pbc = False


FOREIGN = {
    "other element": (_other_element, "atom 7 is Ge; training had only C, Si", "atom 7 is Ge"),
    "larger cell": (_larger_cell, "128 atoms; training had 63 to 65 | a cell edge of 21.720 Å", None),
    "strained cell": (_strained, "a cell edge of 11.403 Å; training had 10.860 Å", "21.01 Å^3 per atom"),
    "sheared cell": (
        crystals.sheared,
        "a cell angle of 85.0 degrees; training had 90.0 degrees",
        "a cell angle of 85.0",
    ),
    "shifted origin": (crystals.shifted, SAME, SAME),
    "wrapped": (crystals.wrapped, SAME, SAME),
    "rotated": (crystals.turned, SAME, SAME),
    "too close": (_too_close, "atoms 0 and 1 (Si-Si) are 1.65 Å apart", "atoms 0 and 1 (Si-Si) are 1.65 Å apart"),
    "too many atoms": (_too_many_atoms, "66 atoms; training had 63 to 65", None),
    "no cell": (_no_cell, "the structure is not periodic", "the structure is not periodic"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("geometry", ["cartesian", "fourier", "pairwise"])
def test_foreign_input(make_force_model, kind, geometry):
    change, reading_coordinates, pairwise = FOREIGN[kind]
    expected = pairwise if geometry == "pairwise" else reading_coordinates
    model = make_force_model(architecture=geometry, num_vector_channels=8)
    local = geometry == "pairwise"
    domain = fit_domain(crystals.training_rows(), local=local, reads_coordinates=not local)
    model.config.training_domain = domain.to_dict()

    original = crystals.perfect()
    foreign = original.copy()
    rng = np.random.default_rng(0)
    result = change(foreign, rng) if expected == SAME else change(foreign)
    foreign = result if isinstance(result, Atoms) else foreign
    lines = domain.check(foreign)
    if expected == SAME:
        assert lines == []
        original.rattle(0.05, seed=0)
        copy = original.copy()
        rotation = change(copy, rng)
        assert np.abs(crystals.forces(model, copy) - crystals.forces(model, original) @ rotation).max() < 1e-4
    elif expected is None:
        assert lines == []
        assert np.isfinite(crystals.forces(model, foreign)).all()
    else:
        assert len(lines) == len(expected.split(" | "))
        for line, words in zip(lines, expected.split(" | "), strict=True):
            assert words in line
        foreign.calc = ADAPTCalculator(model, outside_domain="raise")
        with pytest.raises(InputError, match=re.escape(lines[0])):
            foreign.get_forces()
