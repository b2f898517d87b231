"""The far field through a mesh: equal to the direct sum to 1e-4, with exact derivatives of its own, where it pays."""

from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from modeling_adapt import ADAPTFeatureExtractor, reciprocal_adapt
from modeling_adapt.reciprocal_adapt import ADAPTWaveMeasure

FAR = {"architecture": "pairwise", "num_vector_channels": 8, "pairwise_cutoff": 3.0, "message_degree": 1}
FAR |= {"long_range": True, "long_range_channels": 4}
MGO = {"name": "MgO", "crystalstructure": "rocksalt", "a": 4.21}


def crystals() -> list[Atoms]:
    """Off their sites: a skewed cell, a cube, a primitive cell and a long one, of different sizes."""
    places = np.random.default_rng(5).random((5, 3))
    skewed = Atoms("Si4C", scaled_positions=places, cell=[[4.9, 0.3, 0], [-1, 5, 0.4], [0.7, 1.2, 6]], pbc=True)
    cubic = bulk(**MGO, cubic=True)
    found = [skewed, cubic.repeat(2), bulk(**MGO).repeat(3), cubic.repeat((1, 1, 5))]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.1, seed=seed)
    return found


@pytest.fixture
def meshes(monkeypatch) -> list:
    """One for each far field that went through a mesh."""
    found, real = [], reciprocal_adapt.through_mesh
    monkeypatch.setattr(reciprocal_adapt, "through_mesh", lambda *given: found.append(1) or real(*given))
    return found


@pytest.fixture
def by_both(monkeypatch, meshes):
    """What a function returns when all goes through a mesh, and when nothing does."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(reciprocal_adapt, "PHASES_AT_ONCE", 1)
            patch.setattr(reciprocal_adapt, "PHASES_OF_A_POINT", 0)
            patch.setattr(reciprocal_adapt, "PHASES_OF_AN_ATOM", 0)
            by_mesh, used = function(), len(meshes)
            patch.setattr(reciprocal_adapt, "PHASES_OF_AN_ATOM", np.inf)
            direct = function()
        assert used and len(meshes) == used
        return by_mesh, direct

    return call


def assert_same(ours: torch.Tensor, expected: torch.Tensor, share: float = 1e-4) -> None:
    assert expected.abs().max() > 0
    assert (ours - expected).abs().max() < share * expected.abs().max()


@pytest.fixture(params=["float32", "float64"])
def dtype(request) -> torch.dtype:
    return getattr(torch, request.param)


def inputs_of(model, structures):
    return ADAPTFeatureExtractor.for_model(model.config)(structures, dtype=str(model.dtype).removeprefix("torch."))


def test_it_is_the_direct_sum(make_force_model, by_both, dtype):
    """Potential and field in cells of all shapes together, padded, also of atoms that are not wrapped."""
    model = make_force_model(**FAR).to(dtype)
    inputs = inputs_of(model, crystals())
    mask, cell = inputs["attention_mask"], inputs["cell"]
    charges = torch.randn(mask.numel(), 4, generator=torch.Generator().manual_seed(0)).to(dtype)

    @torch.no_grad()
    def far_field(shift):
        positions = inputs["input_features"][..., :3] + (cell.new_tensor(shift) @ cell)[:, None]
        waves = model.adapt.trunk.waves(positions, mask, cell, inputs["wave_numbers"])
        potential, field = model.adapt.trunk.far_layers[0]._far_field(charges, waves)
        return potential[mask.flatten() > 0], field[:, mask.flatten() > 0]

    (potential, field), direct = by_both(partial(far_field, [0, 0, 0]))
    assert_same(potential, direct[0], 2e-5)
    assert_same(field, direct[1])
    for ours, expected in zip(by_both(partial(far_field, [2, -3, 1]))[0], (potential, field), strict=True):
        assert_same(ours, expected, 1e-5)


def test_forces_energies_and_stresses_are_the_same(make_force_model, make_energy_model, by_both, dtype):
    """Where the energy reads the field too, whose gradient is the hardest."""
    forces, energy = make_force_model(**FAR).to(dtype), make_energy_model(**FAR, energy_mean=0.0).to(dtype)
    inputs = inputs_of(forces, crystals())
    with torch.no_grad():
        found = by_both(lambda: forces(**inputs).forces)
        assert_same(*found)
        ours, expected = by_both(partial(energy, **inputs, compute_forces=True, compute_stress=True))
    for name in ("energy", "forces", "stress"):
        assert_same(ours[name], expected[name])


def test_the_same_crystal_has_the_same_forces(make_force_model, by_both):
    """What is exact by the direct sum, to 1e-4: the points of the mesh are nowhere in particular."""
    model, atoms = make_force_model(**FAR), crystals()[0]
    shifted, relabelled = atoms.copy(), atoms.copy()
    shifted.positions += [0.3, -7.1, 2.2]
    relabelled.set_cell(np.array([[1, 0, 0], [1, 1, 0], [-2, 1, 1]]) @ atoms.cell.array)
    batch = inputs_of(model, [atoms, shifted, relabelled, atoms.repeat((1, 2, 1))])
    with torch.no_grad():
        first, *others = by_both(lambda: model(**batch).forces)[0]
    for other in others:
        assert_same(other[:5], first[:5])


def test_forces_and_stress_are_derivatives_of_its_energy(make_energy_model, by_both):
    energy, atoms, ends = make_energy_model(**FAR, energy_mean=0.0).double(), crystals()[0], []
    for step in (1e-4, -1e-4):
        moved, deformed, strain = atoms.copy(), atoms.copy(), np.eye(3)
        moved.positions[2, 0] += step
        strain[0, :2] += step
        deformed.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        ends += [moved, deformed]
    with torch.no_grad():
        ask = partial(energy, **inputs_of(energy, atoms), compute_forces=True, compute_stress=True)
        found = by_both(ask)[0]
        energies = by_both(lambda: energy(**inputs_of(energy, ends)).energy)[0]
    force, stress = (energies[:2] - energies[2:]).numpy() / 2e-4
    assert found.forces[0, 2, 0].item() == pytest.approx(-force, abs=1e-6)
    assert found.stress[0, 0, :2].sum().item() == pytest.approx(stress / atoms.get_volume(), abs=1e-7)


def test_a_training_step_is_the_same(make_energy_model, by_both):
    """The gradient of a loss of forces, which are a gradient themselves."""
    energy = make_energy_model(**FAR).double()
    inputs = inputs_of(energy, crystals()[:2])

    def slopes():
        loss = energy(**inputs, compute_forces=True).forces.square().sum()
        return torch.autograd.grad(loss, list(energy.adapt.trunk.far_layers[0].parameters()))

    for ours, expected in zip(*by_both(slopes), strict=True):
        assert_same(ours, expected)


def test_where_it_pays(make_force_model):
    """In large crystals; not with few waves, or in a cell so skewed that its mesh is large."""

    def pays(repeats, cutoff=2.2, skew=0):
        atoms = bulk(**MGO, cubic=True).repeat(repeats)
        atoms.set_cell(np.array([[1, 0, 0], [0, 1, 0], [skew, skew, 1]]) @ atoms.cell.array)
        measure = ADAPTWaveMeasure(make_force_model(**FAR, long_range_cutoff=cutoff).config)
        positions, cell = torch.from_numpy(atoms.positions)[None], torch.from_numpy(atoms.cell.array)[None]
        return reciprocal_adapt._mesh_pays(measure(positions, None, cell, None))

    assert [pays(5), pays(8), pays(8, cutoff=1.2), pays(8, skew=9)] == [False, True, False, False]


def test_a_graph_has_no_mesh(make_force_model, meshes, monkeypatch):
    """It could not hold the sizes, so it would break there."""
    model = make_force_model(**FAR)
    inputs = inputs_of(model, crystals()[:1])
    for name in ("PHASES_AT_ONCE", "PHASES_OF_AN_ATOM", "PHASES_OF_A_POINT"):
        monkeypatch.setattr(reciprocal_adapt, name, 0)
    with torch.no_grad():
        model(**inputs)
        assert meshes == [1, 1]
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        model(**inputs)
    assert meshes == [1, 1]


def test_thousands_of_atoms(make_force_model, meshes, monkeypatch):
    model, atoms = make_force_model(**FAR | {"num_hidden_layers": 1}), bulk(**MGO, cubic=True).repeat(8)
    atoms.rattle(0.1, seed=0)
    inputs = inputs_of(model, atoms)
    with torch.no_grad():
        forces = model(**inputs).forces
        assert meshes == [1]
        monkeypatch.setattr(reciprocal_adapt, "PHASES_OF_AN_ATOM", np.inf)
        assert_same(forces, model(**inputs).forces)
    assert meshes == [1]
