"""Exact properties of the pairwise architecture: symmetry, periodic images, continuity, and its list of neighbours."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation
from torch.utils.checkpoint import checkpoint

from modeling_adapt import ADAPTFeatureExtractor, feature_extraction_adapt, neighbours_adapt, pairwise_adapt
from modeling_adapt.modeling_adapt import _some_at_a_time as some_at_a_time
from modeling_adapt.modeling_adapt import forces_of as predicted
from modeling_adapt.neighbours_adapt import Neighbours

extract = ADAPTFeatureExtractor()


@pytest.fixture(params=[0, 1, 2], ids=["states", "vectors", "tensors"])
def model(make_force_model, request):
    """Of two layers, whose messages tell of states alone, of vectors, or of tensors too."""
    fields = {"num_vector_channels": 8, "pairwise_cutoff": 4.0, "num_hidden_layers": 2}
    return make_force_model(architecture="pairwise", message_degree=request.param, **fields)


def forces_of(model, structures, dtype="float32"):
    with torch.no_grad():
        return model.to(getattr(torch, dtype))(**extract(structures, dtype=dtype)).forces[0].numpy()


def transformed(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ matrix)
    other.positions = atoms.positions @ matrix
    return other


@pytest.fixture
def skewed() -> Atoms:
    """A thin, skewed cell with two elements; much thinner than twice the cutoff."""
    rng = np.random.default_rng(5)
    cell = [[3.9, 0.3, 0.0], [-1.0, 5.0, 0.4], [0.7, 1.2, 6.0]]
    return Atoms("Si4C", scaled_positions=rng.random((5, 3)), cell=cell, pbc=True)


@pytest.mark.parametrize("reflect", [1, -1])
def test_forces_turn_with_the_structure(model, structures, skewed, reflect):
    for seed, atoms in enumerate([*structures, skewed]):
        matrix = reflect * Rotation.random(random_state=seed).as_matrix()
        forces = forces_of(model, atoms)
        difference = forces_of(model, transformed(atoms, matrix)) - forces @ matrix
        assert np.abs(difference).max() < 1e-5 * np.abs(forces).max()


def test_translation_and_wrapping_change_nothing(model, structures):
    for atoms in structures:
        forces = forces_of(model, atoms)
        shifted = atoms.copy()
        shifted.positions += [0.3, -7.1, 2.2]
        wrapped = shifted.copy()
        wrapped.wrap()
        for other in (shifted, wrapped):
            assert np.abs(forces_of(model, other) - forces).max() < 1e-5


def test_a_molecule_a_slab_and_a_thin_crystal_share_a_batch(model, structures, skewed):
    """What is tiled for the one must not count atoms of the others again."""
    molecule, slab = structures[0].copy(), structures[2].copy()
    molecule.pbc, molecule.cell = False, None
    slab.pbc = (True, True, False)
    batch = [molecule, slab, skewed]
    with torch.no_grad():
        together = model(**extract(batch)).forces.numpy()
    for row, atoms in enumerate(batch):
        assert np.abs(together[row, : len(atoms)] - forces_of(model, atoms)).max() < 1e-5


@pytest.mark.parametrize("repeat", [(2, 1, 1), (2, 2, 2)])
def test_repeating_the_cell_repeats_the_forces(model, structures, skewed, repeat):
    for atoms in (structures[0], skewed):
        forces = forces_of(model, atoms)
        repeated = forces_of(model, atoms.repeat(repeat))
        assert np.abs(repeated.reshape(-1, *forces.shape) - forces).max() < 1e-5


def test_any_description_of_the_same_lattice_gives_the_same_forces(model, skewed):
    other = skewed.copy()
    other.set_cell(np.array([[1, 0, 0], [1, 1, 0], [-2, 1, 1]]) @ skewed.cell.array)
    assert np.abs(forces_of(model, other) - forces_of(model, skewed)).max() < 1e-5


def test_images_are_those_that_ase_finds(skewed, structures):
    """One search of crystals, slabs, wires and molecules at once, atoms outside of their cells among them."""
    from ase.neighborlist import neighbor_list

    far = structures[2].copy()
    far.positions[::3] += far.cell.array.sum(axis=0) * [3, -5, 1]
    molecule, slab, wire = structures[0].copy(), skewed.copy(), skewed.copy()
    molecule.pbc, slab.pbc, wire.pbc = False, (True, True, False), (False, True, False)
    batch = [skewed, structures[0], far, molecule, slab, wire, Atoms("Si")]
    found = ADAPTFeatureExtractor(cutoff=4.0)(batch, return_tensors="np", dtype="float64")
    for row, atoms in enumerate(batch):
        wrapped = atoms.copy()
        wrapped.positions = found["input_features"][row, : len(atoms), :3]
        first, second, shifts = neighbor_list("ijS", wrapped, 4.0)
        for atom in range(len(atoms)):
            expected = sorted(zip(second[first == atom], map(tuple, shifts[first == atom]), strict=True))
            filled = found["neighbours"][row, atom] >= 0
            ours = found["neighbours"][row, atom][filled], found["neighbour_shifts"][row, atom][filled]
            assert sorted(zip(ours[0].tolist(), map(tuple, ours[1].tolist()), strict=True)) == expected
        assert (found["neighbours"][row, len(atoms) :] == -1).all()


@pytest.mark.filterwarnings("error")
def test_large_and_scattered_structures_are_searched_in_parts(structures, skewed, monkeypatch):
    """Pairs and their order do not depend on what is measured at once; atoms light years apart are no pair."""
    random = np.random.default_rng(0)
    scattered = Atoms("Si40", random.normal(size=(40, 3)) * 10.0 ** random.uniform(0, 36, (40, 1)))
    chain = Atoms("Si300", np.outer(np.arange(300), [2.0, 0.0, 0.0]))
    inputs = [*structures, skewed, bulk("Si", cubic=True) * 3, scattered, chain]
    extract = ADAPTFeatureExtractor(cutoff=5.0)
    whole = extract(inputs)
    for numbers in ({"_MOST_AT_ONCE": 500}, {"_LONGEST": 3.0}, {"_MOST_AT_ONCE": 1}):
        with monkeypatch.context() as patch:
            for name, value in numbers.items():
                patch.setattr(neighbours_adapt, name, value)
            parts = extract(inputs)
        assert all(torch.equal(parts[name], whole[name]) for name in ("neighbours", "neighbour_shifts"))
    assert (whole["neighbours"][-1, 2:298, :4] >= 0).all() and (whole["neighbours"][-1, :, 4:] == -1).all()


def test_a_batch_without_atoms_has_no_pairs():
    assert ADAPTFeatureExtractor(cutoff=5.0)([])["neighbours"].shape == (0, 0, 1)
    padding = np.zeros((2, 3), dtype=bool)
    found = neighbours_adapt.find_neighbours(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)), padding, cutoff=5.0)
    assert (found.others == -1).all()


def test_inputs_without_neighbours_give_the_same_forces(model, structures, skewed):
    batch = [*structures, skewed]
    with torch.no_grad():
        searched = model(**extract(batch)).forces
        given = model(**ADAPTFeatureExtractor(cutoff=4.0)(batch)).forces
        more = model(**ADAPTFeatureExtractor(cutoff=5.5)(batch)).forces  # what is beyond the cutoff counts for nothing
    assert (searched - given).abs().max() < 1e-6 and (more - given).abs().max() < 1e-6


def test_positions_are_wrapped_before_they_are_rounded(model, structures):
    """A thousand cells away float32 resolves 0.001 Å."""
    near, far = structures[2], structures[2].copy()
    far.positions += [1000, -2000, 3000] @ far.cell.array
    wrapping = ADAPTFeatureExtractor(cutoff=4.0)
    with torch.no_grad():
        forces = [model(**wrapping(atoms)).forces for atoms in (near, far)]
    assert (forces[0] - forces[1]).abs().max() < 1e-5


def test_neighbours_that_structures_bring_are_not_searched_again(structures, monkeypatch):
    wrapping = ADAPTFeatureExtractor(cutoff=4.0)
    rows = [{"atomic_numbers": a.numbers, "positions": a.positions, "cell": a.cell.array} for a in structures]
    for row, found in zip(rows, [wrapping([row], return_tensors="np") for row in rows], strict=True):
        row["neighbours"] = Neighbours(found["neighbours"][0], found["neighbour_shifts"][0])
    monkeypatch.setattr(feature_extraction_adapt, "find_neighbours", None)
    batch = wrapping(rows, return_tensors="np")
    for index, row in enumerate(rows):
        size, slots = row["neighbours"].others.shape
        assert (batch["neighbours"][index, :size, :slots] == row["neighbours"].others).all()
        assert (batch["neighbour_shifts"][index, :size, :slots] == row["neighbours"].shifts).all()
        assert (batch["neighbours"][index, size:] == -1).all() and (batch["neighbours"][index, :, slots:] == -1).all()


def test_nothing_jumps_while_an_atom_crosses_the_cell(model, structures):
    """Steps of 0.01 Å over more than half a cell: no force changes by more than its slope allows."""
    frames = []
    for step in np.arange(0, 4.0, 0.01):
        atoms = structures[2].copy()
        atoms.positions[3] += [0.3 * step, step, 0.2 * step]
        frames.append(forces_of(model, atoms, "float64"))
    first = np.abs(np.diff(frames, axis=0)).max(axis=(1, 2))
    second = np.abs(np.diff(frames, n=2, axis=0)).max(axis=(1, 2))
    # A jump would make the second difference as large as the jump itself; for a smooth curve it falls with the step.
    assert second.max() < 0.5 * first.max()


def test_molecules_and_slabs_need_no_cell(model, structures):
    molecule = structures[0].copy()
    molecule.pbc = False
    molecule.cell = None
    boxed = molecule.copy()
    boxed.set_cell([40, 40, 40])
    boxed.pbc = True
    assert np.abs(forces_of(model, molecule) - forces_of(model, boxed)).max() < 1e-5
    slab = structures[0].copy()
    slab.pbc = (True, True, False)
    thick = structures[0].copy()
    thick.set_cell(thick.cell.array * [[1], [1], [8]])
    assert np.abs(forces_of(model, slab) - forces_of(model, thick)).max() < 1e-5


def test_atoms_without_neighbours_feel_nothing(model):
    assert np.abs(forces_of(model, Atoms("Si"))).max() == 0
    assert np.abs(forces_of(model, Atoms("SiC", positions=[[0, 0, 0], [0, 0, 9.0]]))).max() == 0


@pytest.mark.parametrize("geometry", ["cartesian", "fourier", "pairwise"])
def test_net_force_is_removed(make_force_model, structures, geometry):
    model = make_force_model(architecture=geometry, remove_net_force=True)
    with torch.no_grad():
        batch = extract(structures)
        forces = model(**batch).forces * batch["attention_mask"][..., None]
    assert forces.sum(dim=1).abs().max() < 1e-5


def test_statistics_that_would_break_equivariance_are_refused(make_force_model):
    with pytest.raises(Exception, match="needs force_mean 0 and one force_std"):
        make_force_model(architecture="pairwise", force_std=(0.1, 0.2, 0.1))


def test_products_on_the_grid_are_couplings_by_gaunt_coefficients():
    """Against means over the sphere by another rule: Gauss-Legendre times uniform angles."""
    cosines, weights = np.polynomial.legendre.leggauss(8)
    z, angle = np.meshgrid(cosines, 2 * np.pi * np.arange(16) / 16, indexing="ij")
    radius = np.sqrt(1 - z**2)
    unit = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1).reshape(-1, 3)
    harmonics = pairwise_adapt.spherical_harmonics(torch.from_numpy(unit)).numpy()[:, :9]
    gaunt = np.einsum("p,pa,pb,pc->abc", np.repeat(weights, 16) / 32, harmonics, harmonics, harmonics)
    to_points, from_points = pairwise_adapt.product_grid()
    assert np.abs(np.einsum("cp,pa,pb->abc", from_points, to_points, to_points) - gaunt).max() < 1e-14


def test_parts_of_the_atoms_change_nothing(model, structures, skewed, monkeypatch):
    inputs = extract([*structures, skewed])
    model = model.double()
    with torch.no_grad():
        whole = model(**inputs).forces
        monkeypatch.setattr(pairwise_adapt, "ATOMS_AT_ONCE", 7)
        parts = model(**inputs).forces
    gradients = []
    for atoms_at_once in (7, 10**6):
        monkeypatch.setattr(pairwise_adapt, "ATOMS_AT_ONCE", atoms_at_once)
        model.zero_grad()
        model(**inputs).forces.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert torch.allclose(whole, parts, rtol=1e-12)
    assert all(torch.allclose(*pair, rtol=1e-9, atol=1e-12) for pair in zip(*gradients, strict=True))


def test_a_gradient_that_is_computed_again_changes_nothing(make_energy_model, structures, monkeypatch):
    """Of large structures, so that their pairs need not be kept; not while training, whose gradient has its own."""
    model = make_energy_model(architecture="pairwise", num_vector_channels=8, num_hidden_layers=2, message_degree=2)
    inputs, asked = extract(structures), {"compute_forces": True, "compute_stress": True}
    with torch.no_grad():
        kept = model(**inputs, **asked)
    again = []
    monkeypatch.setattr(pairwise_adapt, "ATOMS_AT_ONCE", 7)
    monkeypatch.setattr(pairwise_adapt, "RECOMPUTED_FROM", 20)
    monkeypatch.setattr(pairwise_adapt, "checkpoint", lambda *a, **k: again.append(1) or checkpoint(*a, **k))
    with torch.no_grad():
        found = model(**inputs, **asked)
    assert len(again) == 2 * math.ceil(48 / (7 * torch.get_num_threads()))
    for name in ("energy", "forces", "stress"):
        assert torch.allclose(getattr(found, name), getattr(kept, name), rtol=1e-5, atol=1e-6)
    labels = {"labels": torch.zeros(3), "reference_forces": torch.zeros(3, 16, 3)}
    model.train()(**inputs, **labels).loss.backward()
    assert len(again) == 2 * math.ceil(48 / (7 * torch.get_num_threads()))


class TestAFewStructuresAtATime:
    """What is asked of many structures at once on a processor, where each keeps much of its pairs."""

    @pytest.fixture
    def sizes(self, monkeypatch):
        """Of the parts that a model is given, once it is watched."""
        monkeypatch.setattr("modeling_adapt.modeling_adapt.ATOMS_AT_ONCE", 8)  # without a graph two of 16 atoms

        def watch(model) -> list[int]:
            seen: list[int] = []
            model.adapt.register_forward_pre_hook(
                lambda module, args, kwargs: seen.append(len([*args, *kwargs.values()][0])), with_kwargs=True
            )
            return seen

        return watch

    @pytest.mark.parametrize("long_range", [False, True])
    def test_energies_forces_stresses_and_features_are_as_at_once(
        self, make_energy_model, structures, sizes, long_range
    ):
        model = make_energy_model(
            architecture="pairwise", num_vector_channels=8, long_range=long_range, short_range_repulsion=1.0
        )
        inputs = ADAPTFeatureExtractor.for_model(model.config)([*structures, structures[0], structures[2]])
        with torch.no_grad():
            asked = {"compute_forces": True, "compute_stress": True, "compute_features": True}
            whole = model(**inputs, **asked)
        seen = sizes(model)
        parts = predicted(model, compute_stress=True, compute_features=True, **inputs)
        assert seen == [3, 2] and type(parts) is type(whole) and set(parts) == set(whole)
        for name, values in whole.items():
            torch.testing.assert_close(parts[name], values, rtol=1e-5, atol=1e-6)

    def test_no_structure_is_left_alone_but_where_all_are(self, make_energy_model, structures, sizes):
        """A graph for one is another graph, which takes a minute to make."""
        model = make_energy_model(architecture="pairwise", num_vector_channels=8)
        seen, expected = sizes(model), {1: [1], 2: [2], 3: [3], 4: [2, 2], 5: [3, 2]}
        for count, parts in expected.items():
            predicted(model, **extract([structures[2]] * count))
            assert [seen.pop(0) for _ in parts] == parts and not seen
        predicted(model, **extract([structures[2].repeat((3, 1, 1))] * 2))
        assert seen == [1, 1]

    def test_nothing_else_is_divided(self, make_energy_model, structures, sizes):
        """Losses and states are of the batch; a GPU holds it."""
        model = make_energy_model(architecture="pairwise", num_vector_channels=8)
        inputs = dict(extract(structures * 2))
        asked = {"labels": torch.zeros(6), "reference_forces": torch.zeros(6, 16, 3)}
        seen = sizes(model)
        assert predicted(model, **inputs, **asked).loss.ndim == 0
        assert len(predicted(model, **inputs, output_hidden_states=True).hidden_states) > 0
        model.config.output_hidden_states = True
        assert len(predicted(model, **inputs).hidden_states) > 0
        assert seen == [6, 6, 6]
        model.config.output_hidden_states = False
        elsewhere = {name: values.to("meta") for name, values in inputs.items()}
        for given, parts in ((inputs, 3), (elsewhere, 1)):
            assert len(list(some_at_a_time(model, given))) == parts

    def test_forces_go_so_in_a_graph_alone(self, make_force_model, make_energy_model, structures, sizes, monkeypatch):
        """Else all at once is as fast; and without pairs faster."""
        inputs = extract(structures * 2)
        direct = make_force_model(architecture="pairwise", num_vector_channels=8)
        attends = make_energy_model(architecture="fourier", fourier_wave_numbers=[1, 2])
        of_attention, seen = sizes(attends), sizes(direct)
        whole = predicted(direct, **inputs).forces
        predicted(attends, **inputs)
        assert seen == of_attention == [6]
        monkeypatch.setattr("modeling_adapt.modeling_adapt.ATOMS_AT_ONCE", 32)
        direct.compile(dynamic=True, backend="eager")
        torch.testing.assert_close(predicted(direct, **inputs).forces, whole)
        assert seen[1:] == [2, 2, 2]


@pytest.mark.parametrize("predicts", ["forces", "energy"])
def test_no_weight_of_messages_is_dead(make_force_model, make_energy_model, structures, predicts):
    """Each changes what is predicted; nothing is kept of what the first layer cannot hear or nobody reads."""
    fields = {"architecture": "pairwise", "num_vector_channels": 8, "num_hidden_layers": 3, "message_degree": 2}
    model = make_force_model(**fields) if predicts == "forces" else make_energy_model(**fields)
    outputs = model(**extract(structures))
    (outputs.forces if predicts == "forces" else outputs.energy).square().sum().backward()
    layers = model.adapt.trunk.layers
    assert [(layer.reads, layer.updates) for layer in layers] == [(0, 2), (2, 2), (2, int(predicts == "forces"))]
    dead = [
        name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.abs().max() > 0
    ]
    assert not [name for name in dead if "layers" in name]
