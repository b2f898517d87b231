"""The trained region: what is fitted, that it travels as JSON, and what it notices."""

import dataclasses
import json
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from modeling_adapt.crystal.contacts import closest_contacts
from modeling_adapt.crystal.trained_region import TrainingDomain, fit_domain
from modeling_adapt.data.structures import structure_row
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator


def _silicon() -> Atoms:
    return bulk("Si", cubic=True) * 2


def _rows() -> list[dict]:
    """A trajectory in which one atom moves by 0.3 Å across the boundary of the cell, and a structure with carbon."""
    start = _silicon()
    moved = start.copy()
    moved.positions[0] -= [0.3, 0, 0]
    moved.wrap()
    carbon = start.copy()
    carbon.symbols[3] = "C"
    forces = np.zeros((64, 3))
    forces[5] = [0, 3, 4]
    return [
        structure_row(start, forces, trajectory="a"),
        structure_row(moved, forces / 2, trajectory="a"),
        structure_row(carbon, forces / 2, trajectory="b"),
    ]


@pytest.fixture(scope="module")
def domain() -> TrainingDomain:
    return fit_domain(_rows())


def test_fitted_ranges(domain):
    bond = _silicon().get_distance(0, 1, mic=True)
    assert domain.elements == ("C", "Si")
    assert domain.periodicity == ("abc",)
    assert domain.number_of_atoms == (64, 64)
    assert domain.largest_force == pytest.approx(5)
    assert domain.largest_displacement == pytest.approx(0.3, abs=1e-5)
    assert domain.cell_edges == pytest.approx((10.86, 10.86))
    assert domain.cell_angles == pytest.approx((90, 90))
    assert domain.volume_per_atom == pytest.approx((5.43**3 / 8,) * 2)
    assert domain.closest_distances["C-Si"] == pytest.approx(bond, abs=1e-5)
    assert bond - 0.3 < domain.closest_distances["Si-Si"] < bond - 0.1
    assert "C-C" not in domain.closest_distances  # one carbon, 10 Å from its own image


def test_no_displacement_is_known_from_single_frames():
    rows = _rows()
    assert fit_domain([rows[0], rows[2]]).largest_displacement is None
    unnamed = [row | {"trajectory": ""} for row in rows]
    assert fit_domain(unnamed).largest_displacement is None


def test_nothing_to_fit():
    with pytest.raises(InputError, match="empty"):
        fit_domain([])


def test_travels_as_json(domain):
    values = json.loads(json.dumps(domain.to_dict()))
    assert TrainingDomain.from_dict(values | {"anything_else": 1}) == domain
    older = {name: value for name, value in values.items() if name != "cell_angles"}
    assert TrainingDomain.from_dict(older).cell_angles is None  # not looked at then, so not checked now
    del values["largest_force"]
    with pytest.raises(InputError, match="largest_force"):
        TrainingDomain.from_dict(values)
    for damage in ({"elements": 3}, {"number_of_atoms": "many"}, {"cell_edges": [1.0]}, {"closest_distances": []}):
        with pytest.raises(InputError, match="damaged"):
            TrainingDomain.from_dict(domain.to_dict() | damage)


def test_training_structures_are_inside(domain):
    start = _silicon()
    forces = np.zeros((64, 3))
    forces[5] = [0, 3, 4]
    assert domain.check(start, start, forces) == []


def _too_close(atoms: Atoms) -> None:
    atoms.positions[0] += 0.3 * (atoms.positions[1] - atoms.positions[0])


def _germanium(atoms: Atoms) -> None:
    atoms.symbols[7] = "Ge"


def _second_carbon(atoms: Atoms) -> None:
    atoms.symbols[:2] = "C"


def _vacancy(atoms: Atoms) -> None:
    del atoms[4]


def _molecule(atoms: Atoms) -> None:
    atoms.pbc = False


def _strained(atoms: Atoms) -> None:
    atoms.set_cell(atoms.cell * [1.05, 1, 1], scale_atoms=True)


def _sheared(atoms: Atoms) -> None:
    edge = atoms.cell.array[0, 0]
    lean = np.radians(85)
    cell = edge * np.array([[1, 0, 0], [np.cos(lean), np.sin(lean), 0], [0, 0, 1]])
    atoms.set_cell(cell, scale_atoms=True)


def _larger(atoms: Atoms) -> None:
    atoms.set_cell(atoms.cell * 1.05, scale_atoms=True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_too_close, r"atoms 0 and 1 \(Si-Si\) are 1\.65 Å apart; training had none closer than 2\.\d\d Å"),
        (_germanium, r"atom 7 is Ge; training had only C, Si"),
        (_second_carbon, r"atoms 0 and 1 \(C-C\) are 2\.35 Å apart; training had none closer than 4\.00 Å"),
        (_vacancy, r"63 atoms; training had 64"),
        (_molecule, r"not periodic; training had structures periodic along a, b, c"),
        (_larger, r"cell edge of 11\.403 Å; training had 10\.860 Å"),
        (_sheared, r"a cell angle of 85\.0 degrees; training had 90\.0 degrees"),
        (_strained, r"cell edge of 11\.403 Å; training had 10\.860 Å"),
    ],
)
def test_a_structure_outside_is_noticed_in_one_line(domain, change, expected):
    atoms = _silicon()
    change(atoms)
    (line,) = domain.check(atoms)
    assert "\n" not in line
    assert re.search(expected, line), line


def test_a_dense_cell_is_noticed_by_its_volume():
    domain = fit_domain(
        [structure_row(_silicon(), np.zeros((64, 3))), structure_row(_silicon() * 2, np.zeros((512, 3)))]
    )
    domain = dataclasses.replace(domain, cell_angles=None)
    sheared = _silicon()
    sheared.set_cell(sheared.cell.array + [[0, 6, 0], [0, 0, 0], [0, 0, 0]], scale_atoms=True)
    assert not any("volume" in line or "Å^3" in line for line in domain.check(sheared))
    # Edges of the trained lengths, but the angle between them closes: less volume for the same atoms.
    flat = _silicon()
    cell = flat.cell.array.copy()
    cell[1] = np.linalg.norm(cell[1]) * np.array([0.5, np.sqrt(0.75), 0])
    flat.set_cell(cell, scale_atoms=True)
    assert any("Å^3 per atom" in line for line in domain.check(flat))


def test_displacement_and_force_are_judged_with_their_tolerance(domain):
    start = _silicon()
    forces = np.zeros((64, 3))

    def moved(by: float) -> list[str]:
        atoms = start.copy()
        atoms.positions[9] += [by, 0, 0]
        return domain.check(atoms, start)

    assert moved(0.32) == []
    assert "moved 0.34 Å" in moved(0.34)[0]
    forces[2, 0] = 5.4
    assert domain.check(start, forces=forces) == []
    forces[2, 0] = -5.6
    assert domain.check(start, forces=forces) == ["5.60 eV/Å on Si (atom 2); training had no force above 5.00 eV/Å"]


def test_closest_contacts_agree_with_the_neighbour_list_of_ase_in_cells_of_any_shape():
    rng = np.random.default_rng(0)
    for number in range(90):
        count = rng.integers(1, 10)
        atoms = Atoms(
            rng.choice([6, 14], count),
            scaled_positions=rng.uniform(-1, 2, (count, 3)),
            cell=rng.uniform(-1, 1, (3, 3)) + np.diag(rng.uniform(2, 8, 3)),
            pbc=rng.random(3) < 0.6,
        )
        if number % 3 == 0:  # a box of which no pair sees two images, with atoms on its walls
            atoms.pbc, atoms.cell = True, np.diag(rng.uniform(8.1, 10, 3))
            edge = atoms.cell.lengths()[0]
            atoms.positions[:3, 0] = np.array([0.0, edge, -1e-17])[: len(atoms)]
        expected: dict[str, float] = {}
        for i, j, distance in zip(*neighbor_list("ijd", atoms, 4.0), strict=True):
            pair = "-".join(sorted((atoms.symbols[i], atoms.symbols[j])))
            expected[pair] = min(distance, expected.get(pair, 4.0))
        found = {pair: contact.distance for pair, contact in closest_contacts(atoms).items()}
        assert found == pytest.approx(expected)


def test_a_cell_without_volume_is_an_error_not_an_endless_loop():
    for slant in (0.0, 1e-6, 0.1):
        flat = Atoms("Si", cell=[[5, 0, 0], [5, slant, 0], [0, 0, 5]], pbc=True)
        with pytest.raises(InputError, match="Å thick"):
            closest_contacts(flat)


def test_atoms_on_top_of_each_other_are_a_contact():
    assert closest_contacts(Atoms("Si2", positions=[[1, 1, 1]] * 2))["Si-Si"].distance == 0


@pytest.mark.parametrize("geometry", ["pairwise", "fourier"])
def test_what_is_the_same_crystal_is_inside_and_gets_the_same_forces(make_force_model, domain, geometry):
    """Wrapped, atoms are written elsewhere; shifted or turned, a structure is the same to the pairwise kind."""
    model = make_force_model(architecture=geometry, num_vector_channels=8)
    model.config.training_domain = domain.to_dict()
    atoms = _silicon()
    atoms.rattle(0.05, seed=0)
    forces = _forces(model, atoms)
    wrapped = atoms.copy()
    wrapped.positions += np.rint(np.random.default_rng(0).normal(size=(64, 3))) @ atoms.cell.array
    assert np.abs(_forces(model, wrapped) - forces).max() < 1e-4
    if geometry == "pairwise":
        shifted = atoms.copy()
        shifted.positions += [1.0, 2.0, 3.0]
        assert np.abs(_forces(model, shifted) - forces).max() < 1e-4
        turned = atoms.copy()
        turned.rotate(30, "z", rotate_cell=True)
        rotation = np.linalg.solve(atoms.cell.array, turned.cell.array)
        assert np.abs(_forces(model, turned) - forces @ rotation).max() < 1e-4


def _forces(model, atoms: Atoms) -> np.ndarray:
    atoms.calc = ADAPTCalculator(model, outside_domain="raise")
    return atoms.get_forces()
