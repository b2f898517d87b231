"""A list of neighbours that follows a structure says what a search says, to the bit, and searches when it must."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.md.verlet import VelocityVerlet

from modeling_adapt.feature_extraction_adapt import ADAPTFeatureExtractor
from modeling_adapt.neighbours_adapt import NeighbourList
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.prediction import structure_of

STRUCTURES = {
    "crystal": lambda: bulk("Si", cubic=True) * 2,
    "smaller than the cutoff": lambda: bulk("Si"),
    "slab": lambda: fcc111("Al", (2, 2, 3), vacuum=5.0),
    "molecule": lambda: molecule("C6H6"),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_it_is_as_a_search_to_the_bit(name):
    """Over a random walk in which atoms are wrapped, the cell changes, and directions stop to be periodic."""
    atoms, random = STRUCTURES[name](), np.random.default_rng(0)
    extract, known = ADAPTFeatureExtractor(cutoff=5.0), NeighbourList(5.0)
    for step in range(60):
        atoms.positions += random.normal(scale=0.03, size=atoms.positions.shape)
        if step % 17 == 5:
            atoms.wrap()
        if step % 23 == 7 and atoms.pbc.any():
            atoms.set_cell(atoms.cell.array * 1.01, scale_atoms=step > 30)
        if step == 50:
            atoms.pbc = (atoms.pbc[0], False, False)
        structure = structure_of(atoms)
        searched, listed = extract(structure), extract({**structure, "neighbours": known})
        for column, values in searched.items():
            assert values.dtype == listed[column].dtype and np.array_equal(values, listed[column]), (column, step)
    assert known.searches < 60


@pytest.mark.parametrize("cutoff", [5.43, 3.8396])
def test_pairs_at_the_cutoff_are_those_of_a_search(cutoff):
    """Of a perfect crystal rounding decides, and may decide otherwise in each step."""
    atoms, extract = bulk("Si", cubic=True, a=5.43) * 2, ADAPTFeatureExtractor(cutoff=cutoff)
    known = NeighbourList(cutoff)
    for step in range(5):
        atoms.positions += [0.01 * step, 0.003, 0.0]
        searched, listed = extract(structure_of(atoms)), extract({**structure_of(atoms), "neighbours": known})
        assert all(np.array_equal(values, listed[column]) for column, values in searched.items())
    assert known.searches == 1


def test_atoms_at_one_place_may_part():
    atoms = Atoms("Si2", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    known = NeighbourList(5.0)
    assert (known(atoms.positions, np.zeros((3, 3))).others == -1).all()
    assert known(atoms.positions + [[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]], np.zeros((3, 3))).others.tolist() == [[1], [0]]
    assert known.searches == 1


def test_it_searches_only_when_it_must():
    atoms, known = bulk("Si", cubic=True), NeighbourList(4.0, skin=0.6)

    def searches() -> int:
        known(atoms.positions, np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
        return known.searches

    assert [searches(), searches()] == [1, 1]
    atoms.positions[3, 1] += 0.29
    assert searches() == 1
    atoms.positions[3, 1] += 0.02
    assert searches() == 2
    atoms.positions[3, 1] += 0.29  # from where it was searched, not from the start
    assert searches() == 2
    atoms.set_cell(atoms.cell.array * 1.0001)
    assert searches() == 3
    atoms.pbc = (True, True, False)
    assert searches() == 4
    del atoms[0]
    assert searches() == 5


def test_while_the_cell_changes_it_looks_no_farther_than_it_must():
    atoms, known, random = bulk("Si", cubic=True) * 2, NeighbourList(4.0), np.random.default_rng(0)
    pairs = []
    for step in range(6):
        if step in (1, 2, 3):
            atoms.set_cell(atoms.cell.array * 1.003, scale_atoms=True)
        atoms.positions += random.normal(scale=0.01, size=atoms.positions.shape)
        listed = known(atoms.positions, atoms.cell.array)
        pairs.append(len(known._first))
        assert np.array_equal(listed.others, NeighbourList(4.0)(atoms.positions, atoms.cell.array).others)
    assert pairs[0] == pairs[4] == pairs[5] > 1.3 * max(pairs[1:4]) and known.searches == 5


def test_the_order_of_pairs_does_not_depend_on_the_batch():
    atoms, other = bulk("Si", cubic=True), bulk("Si", cubic=True) * 2
    atoms.rattle(0.05, seed=1)
    other.positions += 40.0
    extract = ADAPTFeatureExtractor(cutoff=5.0)
    alone, together = extract([atoms], return_tensors="np"), extract([other, atoms], return_tensors="np")
    slots = alone["neighbours"].shape[2]
    assert np.array_equal(alone["neighbours"][0], together["neighbours"][1, : len(atoms), :slots])
    assert np.array_equal(alone["neighbour_shifts"][0], together["neighbour_shifts"][1, : len(atoms), :slots])


def total_energies(calculator, structures: int) -> list[float]:
    """Along dynamics of `structures` that move by turns with one calculator, as the images of a path do."""
    moving = []
    for seed in range(structures):
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = calculator
        atoms.set_momenta(np.random.default_rng(seed).normal(scale=1.5, size=atoms.positions.shape))
        moving.append(VelocityVerlet(atoms, 1 * units.fs))
    found = []
    for _ in range(15):
        for dynamics in moving:
            dynamics.run(1)
            found.append(dynamics.atoms.get_total_energy())
    return found


@pytest.mark.parametrize("structures", [1, 2])
def test_dynamics_are_as_without_a_list(make_energy_model, structures):
    model = make_energy_model(architecture="pairwise", num_vector_channels=8)
    with_list, without = ADAPTCalculator(model), ADAPTCalculator(model)
    without._near = None
    assert total_energies(with_list, structures) == total_energies(without, structures)
    assert structures > 1 or 1 <= with_list._near.searches <= 5


def test_systems_of_torch_sim_keep_their_lists(make_energy_model):
    """Though some leave and others come; and what they get is what they get without."""
    ts = pytest.importorskip("torch_sim")
    from modeling_adapt.simulation.batched import ADAPTTorchSimModel

    model, random = make_energy_model(architecture="pairwise", num_vector_channels=8), np.random.default_rng(0)
    kept, searches = ADAPTTorchSimModel(model), 0
    systems = [bulk("Si", cubic=True), bulk("SiC", "zincblende", 4.36, cubic=True), bulk("Ge", cubic=True)]
    for step in range(8):
        for atoms in systems:
            atoms.positions += random.normal(scale=0.01, size=atoms.positions.shape)
        if step == 4:
            systems = [*systems[1:], bulk("C", "diamond", 3.57, cubic=True)]
        state = ts.io.atoms_to_state(systems, kept.device, kept.dtype)
        listed, fresh = kept(state), ADAPTTorchSimModel(model)(state)
        assert all((listed[name] == fresh[name]).all() for name in fresh)
        assert len(kept._lists) == 3
        searches += sum(known.searches for known in kept._lists) == 3
    assert searches >= 7
