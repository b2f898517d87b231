"""The far field: exact symmetries, its sum against a plain one, derivatives, and who is refused."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from huggingface_hub.errors import StrictDataclassError
from scipy.spatial.transform import Rotation

from modeling_adapt import ADAPTConfig, ADAPTFeatureExtractor, ADAPTForEnergy, ADAPTForForces, reciprocal_adapt
from modeling_adapt.errors import InputError
from modeling_adapt.loading import load_model
from modeling_adapt.neighbours_adapt import find_wave_numbers
from modeling_adapt.simulation.calculator import ADAPTCalculator

FAR = {"architecture": "pairwise", "num_vector_channels": 8, "pairwise_cutoff": 3.0, "long_range": True}
FAR |= {"long_range_channels": 4}


def crystals() -> list[Atoms]:
    """A cube off its sites, and a skewed cell of two elements."""
    rng = np.random.default_rng(5)
    cubic = bulk("SiC", "zincblende", 4.4, cubic=True)
    cubic.rattle(0.1, seed=0)
    cell = [[4.9, 0.3, 0.0], [-1.0, 5.0, 0.4], [0.7, 1.2, 6.0]]
    return [cubic, Atoms("Si4C", scaled_positions=rng.random((5, 3)), cell=cell, pbc=True)]


@pytest.fixture
def model(make_force_model) -> ADAPTForForces:
    return make_force_model(**FAR, message_degree=2)


@pytest.fixture
def energy(make_energy_model) -> ADAPTForEnergy:
    return make_energy_model(**FAR, message_degree=1, energy_mean=0.0).double()


def outputs_of(model, structures, **options):
    dtype = "float64" if model.dtype == torch.float64 else "float32"
    with torch.no_grad():
        return model(**ADAPTFeatureExtractor.for_model(model.config)(structures, dtype=dtype), **options)


def forces_of(model, atoms) -> np.ndarray:
    return outputs_of(model, atoms).forces[0].numpy()


def deformed(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ matrix)
    other.positions = atoms.positions @ matrix
    return other


def test_the_same_crystal_has_the_same_forces(model):
    """Turned, reflected, shifted, wrapped, permuted, in another cell, doubled: to 1e-5 in float32."""
    for seed, atoms in enumerate(crystals()):
        forces, size = forces_of(model, atoms), len(atoms)
        turn = -Rotation.random(random_state=seed).as_matrix()
        shifted, wrapped, relabelled = atoms.copy(), atoms.copy(), atoms.copy()
        shifted.positions += [0.3, -7.1, 2.2]
        wrapped.positions[1] += [2, -3, 1] @ atoms.cell.array
        relabelled.set_cell(np.array([[1, 0, 0], [1, 1, 0], [-2, 1, 1]]) @ atoms.cell.array)
        order = np.random.default_rng(0).permutation(size)
        for other, expected in [
            (deformed(atoms, turn), forces @ turn),
            *((same, forces) for same in (shifted, wrapped, relabelled)),
            (atoms[order], forces[order]),
            (atoms.repeat((2, 1, 2)), np.tile(forces, (4, 1))),
        ]:
            assert np.abs(forces_of(model, other) - expected).max() < 1e-5 * np.abs(forces).max()


def test_the_same_crystal_has_the_same_energy(make_energy_model):
    """Likewise, with forces and stress, which turn along."""
    energy = make_energy_model(**FAR, message_degree=1, energy_mean=0.0)
    for seed, atoms in enumerate(crystals()):
        turn = -Rotation.random(random_state=seed).as_matrix()
        relabelled, wrapped = atoms.copy(), atoms.copy()
        relabelled.set_cell(np.array([[1, 0, 0], [1, 1, 0], [-2, 1, 1]]) @ atoms.cell.array)
        wrapped.positions += [2, -3, 1] @ atoms.cell.array + [0.3, -7.1, 2.2]
        same = [atoms, deformed(atoms, turn), relabelled, wrapped, atoms[::-1], atoms.repeat((1, 2, 1))]
        first, *others = (outputs_of(energy, one, compute_forces=True, compute_stress=True) for one in same)
        forces, stress, size = first.forces[0], first.stress[0], len(atoms)
        for number, found in enumerate(others):
            rotation = torch.from_numpy(turn).float() if number == 0 else torch.eye(3)
            expected = forces @ rotation
            ours = found.forces[0, :size].flip(0) if number == 3 else found.forces[0, :size]
            per_atom = found.energy[0] / found.forces.shape[1]
            assert per_atom.item() == pytest.approx(first.energy.item() / size, rel=1e-5)
            assert (ours - expected).abs().max() < 1e-5 * forces.abs().max()
            assert (found.stress[0] - rotation.T @ stress @ rotation).abs().max() < 1e-5 * stress.abs().max()


def test_atoms_meet_far_beyond_the_cutoff(make_force_model, model):
    local = make_force_model(**FAR | {"long_range": False, "long_range_channels": 16})
    for one, meets in ((model, True), (local, False)):
        forces = []
        for distance in (9.0, 10.0):
            forces.append(forces_of(one, Atoms("SiC", [[0, 0, 0], [0, 0, distance]], cell=[12, 12, 30], pbc=True)))
        assert (np.abs(forces[0] - forces[1]).max() > 1e-6) == meets
    assert np.abs(forces_of(model, Atoms("Si", cell=[9, 9, 9], pbc=True))).max() < 1e-6


def test_it_is_the_sum_over_all_waves(make_force_model):
    """Against a plain sum over G and -G in numpy, and the field against differences of the potential."""
    model = make_force_model(**FAR).double()
    block, atoms = model.adapt.trunk.far_layers[0], crystals()[1]
    charges = np.random.default_rng(0).normal(size=(5, 4))
    inputs = ADAPTFeatureExtractor.for_model(model.config)(atoms, dtype="float64")
    features = inputs["input_features"]

    def far_field(features):
        waves = model.adapt.trunk.waves(features[..., :3], None, inputs["cell"], inputs["wave_numbers"])
        with torch.no_grad():
            return block._far_field(torch.from_numpy(charges), waves)

    potential, field = far_field(features)
    grid = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    vectors = 2 * np.pi * grid @ np.linalg.inv(atoms.cell.array).T
    lengths = np.linalg.norm(vectors, axis=1)
    inside = (lengths > 0) & (lengths < 2.2)
    vectors, x = vectors[inside], (lengths[inside] / 2.2) ** 2
    gaussians = np.exp(-0.5 * x[:, None] * np.array(reciprocal_adapt.WIDTHS) ** 2)
    kernel = gaussians @ block.kernel.weight.detach().numpy().T
    kernel *= ((1 - x) ** 3 * (1 + 3 * x + 6 * x**2) * 4 * np.pi / (x * 2.2**2 * atoms.get_volume()))[:, None]
    waves = np.exp(1j * atoms.positions @ vectors.T)
    expected = (waves.conj() @ (kernel * (waves.T @ charges))).real
    np.testing.assert_allclose(potential.numpy(), expected, rtol=1e-12, atol=1e-12)

    # The potential at an atom without charge, when it is moved, is the potential of the others elsewhere.
    charges[2] = 0
    _, field = far_field(features)
    for axis in range(3):
        ends = []
        for step in (1e-5, -1e-5):
            moved = features.clone()
            moved[0, 2, axis] += step
            ends.append(far_field(moved)[0][2].numpy())
        np.testing.assert_allclose(field[axis, 2].numpy(), (ends[1] - ends[0]) / 2e-5, atol=1e-7)


def test_waves_are_half_of_those_below_the_cutoff():
    cells = np.array([atoms.cell.array for atoms in crystals()] + [0.5 * np.eye(3)])
    found = find_wave_numbers(cells, 4.0)
    grid = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    for cell, numbers in zip(cells, found, strict=True):
        ours = {tuple(one) for one in numbers.tolist() if any(one)}
        opposites = {tuple(-x for x in one) for one in ours}
        lengths = 2 * np.pi * np.linalg.norm(grid @ np.linalg.inv(cell).T, axis=1)
        assert not ours & opposites
        assert ours | opposites == set(map(tuple, grid[(lengths > 0) & (lengths < 4.0)].tolist()))


def test_forces_and_stress_are_derivatives(energy):
    for atoms in crystals():
        found = outputs_of(energy, atoms, compute_forces=True, compute_stress=True)
        assert found.forces.abs().max() > 1e-2
        for axis in range(3):
            ends = []
            for step in (1e-4, -1e-4):
                moved, strain = atoms.copy(), np.eye(3)
                moved.positions[2, axis] += step
                strain[axis, [axis, (axis + 1) % 3]] += step
                ends.append([outputs_of(energy, one).energy.item() for one in (moved, deformed(atoms, strain))])
            (force, stress) = (np.array(ends[0]) - ends[1]) / 2e-4
            assert found.forces[0, 2, axis].item() == pytest.approx(-force, abs=1e-6)
            ours = found.stress[0, axis, axis] + found.stress[0, axis, (axis + 1) % 3]
            assert ours.item() == pytest.approx(stress / atoms.get_volume(), abs=1e-7)


def test_nothing_jumps_where_a_wave_enters(energy):
    """The stress, a derivative, just before and just behind."""
    atoms, counts, stresses = crystals()[0], [], []
    edge = 2 * np.pi * np.sqrt(2) / 2.2  # of the cube whose waves (1, 1, 0) stand at the cutoff
    for size in (edge - 1e-5, edge + 1e-5):
        cube = deformed(atoms, size / atoms.cell.array[0, 0] * np.eye(3))
        counts.append(len(find_wave_numbers(cube.cell.array[None], 2.2)[0]))
        stresses.append(outputs_of(energy, cube, compute_stress=True).stress[0].numpy())
    assert counts == [3, 9]
    assert np.abs(stresses[1] - stresses[0]).max() < 1e-3 * np.abs(stresses[0]).max()


def test_batches_padding_and_parts(model, monkeypatch):
    batch = [*crystals(), bulk("Si", cubic=True).repeat((2, 1, 1))]
    extract = ADAPTFeatureExtractor.for_model(model.config)
    together = outputs_of(model, batch).forces
    for row, atoms in enumerate(batch):
        assert np.abs(together[row, : len(atoms)].numpy() - forces_of(model, atoms)).max() < 1e-5
    more = ADAPTFeatureExtractor(cutoff=3.0, reciprocal_cutoff=3.0)  # what is beyond the cutoff counts for nothing
    for other in (ADAPTFeatureExtractor(cutoff=3.0), more):
        with torch.no_grad():
            assert (model(**other(batch)).forces - together).abs().max() < 1e-6
    monkeypatch.setattr(reciprocal_adapt, "PHASES_AT_ONCE", 3 * extract(batch)["attention_mask"].numel())
    assert (outputs_of(model, batch).forces - together).abs().max() < 1e-6


def test_what_is_not_periodic_is_refused(model):
    slab, molecule = crystals()[0], crystals()[0]
    slab.pbc = (True, True, False)
    molecule.pbc, molecule.cell = False, None
    for atoms in (slab, molecule):
        atoms.calc = ADAPTCalculator(model)
        with pytest.raises(
            InputError, match="structure 0 is not periodic in all three directions, which a model with"
        ):
            atoms.get_forces()
        with pytest.raises(ValueError, match="structure 0 is not periodic"):
            model(**ADAPTFeatureExtractor()(atoms))
    with pytest.raises(ValueError, match="structure 0 is not periodic"):
        model(input_features=torch.zeros(1, 2, 12))


def test_the_configuration_and_the_checkpoint(model, tmp_path):
    for field, value in (("long_range_cutoff", 3.0), ("long_range_channels", 8)):
        with pytest.raises(StrictDataclassError, match=f"{field} is read with long_range only"):
            ADAPTConfig(architecture="pairwise", **{field: value})
    with pytest.raises(StrictDataclassError, match="long_range_cutoff must be positive"):
        ADAPTConfig(architecture="pairwise", long_range=True, long_range_cutoff=0)
    model.save_pretrained(tmp_path)
    ADAPTFeatureExtractor.for_model(model.config).save_pretrained(tmp_path)
    assert (tmp_path / "reciprocal_adapt.py").is_file()
    loaded, extract = load_model(tmp_path)
    assert extract.reciprocal_cutoff == 2.2
    with torch.no_grad():
        forces = loaded(**extract(crystals()[0])).forces[0].numpy()
    assert np.abs(forces - forces_of(model, crystals()[0])).max() == 0
