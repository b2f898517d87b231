"""Exact properties of the models: what must hold for any weights."""

import numpy as np
import pytest
import torch
from ase.build import bulk

from modeling_adapt import ADAPTConfig, ADAPTFeatureExtractor, ADAPTForEnergy, ADAPTForForces, ADAPTModel
from modeling_adapt.configuration.architectures_adapt import FORCE_LOSSES
from modeling_adapt.encoder_adapt import pair_distances

extract = ADAPTFeatureExtractor()
GEOMETRIES = ["cartesian", "fourier", "pairwise"]


def forces_of(model, structures):
    with torch.no_grad():
        return model(**extract(structures)).forces


def test_published_small_model_has_the_published_size():
    assert ADAPTForForces(ADAPTConfig()).num_parameters() == 4_319_107


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_permuting_atoms_permutes_forces(make_force_model, structures, geometry, norm_position):
    model = make_force_model(architecture=geometry, norm_position=norm_position)
    order = np.random.default_rng(0).permutation(len(structures[2]))
    forces, permuted = forces_of(model, structures[2]), forces_of(model, structures[2][order])
    assert (forces[:, order] - permuted).abs().max() < 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_padding_and_batch_composition_change_nothing(make_force_model, structures, geometry, attention):
    model = make_force_model(architecture=geometry)
    model.set_attn_implementation(attention)
    together = forces_of(model, structures)
    for index, atoms in enumerate(structures):
        assert (together[index, : len(atoms)] - forces_of(model, atoms)[0]).abs().max() < 1e-5


def test_content_of_padding_has_no_effect(make_force_model, structures):
    model, batch = make_force_model(), extract(structures)
    with torch.no_grad():
        clean = model(**batch).forces
        batch["input_features"][0, len(structures[0]) :] = 1e3
        dirty = model(**batch).forces
    assert torch.equal(clean[0, : len(structures[0])], dirty[0, : len(structures[0])])


@pytest.mark.parametrize("radius", [None, 3.0])
def test_attention_implementations_agree(make_force_model, structures, radius):
    model = make_force_model(attention_radius=radius)
    forces = {}
    for attention in ("eager", "sdpa", "flex_attention"):
        model.set_attn_implementation(attention)
        forces[attention] = forces_of(model, structures)
    atoms = extract(structures)["attention_mask"].bool()
    for attention in ("sdpa", "flex_attention"):
        assert (forces["eager"] - forces[attention])[atoms].abs().max() < 1e-5


def test_attention_radius_hides_far_atoms_and_only_those(make_force_model, structures):
    atoms = structures[2]
    distances = atoms.get_all_distances(mic=True)[0]
    order = np.argsort(distances)
    near, far = order[1], order[-1]
    radius = 0.5 * (distances[near] + distances[far])
    model = make_force_model(attention_radius=float(radius), num_hidden_layers=1)
    before = forces_of(model, atoms)[0, 0]
    for moved, changes in ((far, False), (near, True)):
        other = atoms.copy()
        other.positions[moved] += 0.01
        assert ((forces_of(model, other)[0, 0] - before).abs().max() > 1e-7) == changes


def test_pair_distances_are_minimum_image_distances(structures):
    skewed = structures[1].copy()
    skewed.set_cell(skewed.cell.array @ [[1, 0.2, 0], [0, 1, 0.3], [0, 0, 1]], scale_atoms=True)
    molecule = structures[0].copy()
    molecule.pbc = False
    for atoms in (skewed, structures[2], molecule):
        batch = extract(atoms, dtype="float64")
        distances = pair_distances(batch["input_features"][..., :3], batch["cell"])[0]
        assert np.allclose(distances, atoms.get_all_distances(mic=True), atol=1e-9)


def test_fourier_geometry_does_not_see_wrapping(make_force_model, structures):
    model = make_force_model(architecture="fourier")
    shifted = structures[1].copy()
    shifted.positions[3] += 2 * shifted.cell[0] - shifted.cell[2]
    assert (forces_of(model, structures[1]) - forces_of(model, shifted)).abs().max() < 1e-5


def test_fourier_geometry_needs_a_periodic_cell(make_force_model, structures):
    molecule = structures[0].copy()
    molecule.pbc = False
    with pytest.raises(ValueError, match="needs a cell that is periodic"):
        forces_of(make_force_model(architecture="fourier"), molecule)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_low_precision_weights_run_and_statistics_stay_exact(make_force_model, structures, geometry, tmp_path):
    model = make_force_model(architecture=geometry)
    expected = forces_of(model, structures)
    model.save_pretrained(tmp_path)
    low = ADAPTForForces.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    forces = forces_of(low, structures)
    atoms = extract(structures)["attention_mask"].bool()
    assert low.dtype == torch.bfloat16 and forces.dtype == torch.float32
    assert (forces - expected)[atoms].abs().max() < 0.05 * expected[atoms].abs().max()
    for name in ("mean", "scale"):  # not rounded to bfloat16
        exact = getattr(model.normalizer, name)(torch.float64)
        assert torch.equal(getattr(low.normalizer, name)(torch.float64), exact)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_coordinates_stay_float32_under_autocast(make_force_model, structures, geometry):
    model = make_force_model(architecture=geometry)
    batch = ADAPTFeatureExtractor.for_model(model.config)(structures)
    seen: dict = {"embeddings": [], "measure": []}
    for name, outputs in seen.items():
        if (module := getattr(model.adapt.trunk, name, None)) is not None:
            module.register_forward_hook(lambda module, inputs, output, outputs=outputs: outputs.append(output))
    with torch.no_grad():
        model(**batch)
        with torch.autocast("cpu", torch.bfloat16):
            model(**batch)
    exact, cast = seen["embeddings"]
    assert (exact - cast).abs().max() < 1e-5
    if geometry == "pairwise":
        exact, cast = seen["measure"]
        assert all(torch.equal(*pair) for pair in zip(exact, cast, strict=True))


def test_a_pooled_energy_learns_its_gradient_under_autocast(make_energy_model, structures):
    model = make_energy_model(architecture="pairwise").train()
    batch = extract(structures)
    labels = {"labels": torch.zeros(3), "reference_forces": torch.zeros(3, 16, 3)}
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch, **labels).loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert max(gradient.abs().max() for gradient in gradients) > 0


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradient_checkpointing_changes_nothing(make_force_model, structures, geometry):
    batch = extract(structures)
    labels = torch.randn(3, 16, 3, generator=torch.Generator().manual_seed(0))
    gradients = {}
    for checkpointing in (False, True):
        model = make_force_model(architecture=geometry).train()
        kind = "activation" if hasattr(model, "is_activation_checkpointing") else "gradient"  # its name in early 5
        if checkpointing:
            getattr(model, f"{kind}_checkpointing_enable")()
        assert getattr(model, f"is_{kind}_checkpointing") == checkpointing
        model(**batch, labels=labels).loss.backward()
        gradients[checkpointing] = [parameter.grad for parameter in model.parameters()]
    for plain, checkpointed in zip(gradients[False], gradients[True], strict=True):
        assert torch.allclose(plain, checkpointed, atol=1e-7)


def test_hidden_states_and_attentions_are_recorded(make_force_model, structures):
    model = make_force_model()
    model.set_attn_implementation("eager")
    outputs = model(**extract(structures), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(3, 16, 16)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(3, 4, 16, 16)] * 2
    # Nobody attends to padding.
    assert outputs.attentions[0][0, :, :, len(structures[0]) :].abs().max() == 0


def test_one_atom_has_finite_forces_and_no_atoms_is_an_error(make_force_model, structures):
    assert forces_of(make_force_model(), structures[0][:1]).isfinite().all()
    with pytest.raises(ValueError, match="structure 0 has no atoms"):
        extract(structures[0][:0])


@pytest.mark.parametrize("cell", [[[5, 0, 0], [5, 0, 0], [0, 0, 5]], [1e-4, 1e-4, 1e-4]])
def test_a_cell_without_volume_is_an_error(structures, cell):
    structures[1].set_cell(cell)
    with pytest.raises(ValueError, match="structure 1: the cell is .* Å thick"):
        extract(structures)


class TestLoss:
    @pytest.fixture
    def batch(self, structures):
        generator = torch.Generator().manual_seed(1)
        batch = dict(extract(structures))
        padding = batch["attention_mask"] == 0
        labels = torch.randn(3, 16, 3, generator=generator)
        weights = 1 + 5 * torch.rand(3, 16, generator=generator)
        batch["labels"] = labels.masked_fill(padding[..., None], -100.0)
        batch["importance_weights"] = weights.masked_fill(padding, 0.0)
        return batch

    def expected(self, model, batch, kind):
        """The losses as written in the configuration's docstring, atom by atom."""
        atoms = batch["attention_mask"].bool()
        scale = torch.tensor(model.normalizer.scale.numbers)
        error = ((model(**batch).forces - batch["labels"]) / scale)[atoms]
        weights = batch["importance_weights"][atoms] if kind.startswith("weighted") else torch.ones(int(atoms.sum()))
        if kind.endswith("l2"):
            return (weights * error.norm(dim=-1)).mean()
        return (weights[:, None] * error.square()).mean()

    @pytest.mark.parametrize("kind", FORCE_LOSSES)
    def test_value(self, make_force_model, batch, kind):
        model = make_force_model(force_loss=kind)
        assert torch.allclose(model(**batch).loss, self.expected(model, batch, kind), rtol=1e-5)

    @pytest.mark.parametrize("kind", FORCE_LOSSES)
    def test_does_not_depend_on_how_structures_are_batched(self, make_force_model, batch, kind):
        model = make_force_model(force_loss=kind)
        count = (batch["labels"] != -100).sum()
        parts = [{name: tensor[index : index + 1] for name, tensor in batch.items()} for index in range(3)]
        summed = sum(model(**part, num_items_in_batch=count).loss for part in parts)
        assert torch.allclose(summed, model(**batch).loss, rtol=1e-5)


class TestEnergy:
    def test_padding_and_batch_composition_change_nothing(self, make_energy_model, structures):
        model = make_energy_model()
        with torch.no_grad():
            together = model(**extract(structures)).energy
            alone = torch.cat([model(**extract(atoms)).energy for atoms in structures])
        assert together.shape == (3,) and (together - alone).abs().max() < 1e-4

    @pytest.mark.parametrize("kind", ["mse", "mae"])
    def test_loss_is_the_mean_of_the_normalised_error(self, make_energy_model, structures, kind):
        model = make_energy_model(energy_loss=kind)
        labels = torch.tensor([-80.0, -90.0, -95.0], dtype=torch.float64)
        outputs = model(**extract(structures), labels=labels)
        errors = (outputs.energy - labels) / model.energy_normalizer.scale.numbers[0]
        expected = {"mse": errors.square(), "mae": errors.abs()}[kind].mean()
        assert torch.allclose(outputs.loss.double(), expected, rtol=1e-5)

    def test_too_many_atoms_is_an_error_that_counts_them(self, make_energy_model, structures):
        with pytest.raises(ValueError, match="a structure has 16 atoms, but this energy model takes at most 15"):
            make_energy_model(max_atoms=15)(**extract(structures))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_models_are_identical(make_force_model, make_energy_model, structures, tmp_path, dtype):
    batch = extract(structures)
    for model, output in ((make_force_model(), "forces"), (make_energy_model(), "energy")):
        model = model.to(dtype)
        model.save_pretrained(tmp_path / output)
        loaded, info = type(model).from_pretrained(tmp_path / output, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        with torch.no_grad():
            assert torch.equal(model(**batch)[output], loaded.eval()(**batch)[output])


def test_trunk_loads_from_a_force_checkpoint(make_force_model, structures, tmp_path):
    model = make_force_model()
    model.save_pretrained(tmp_path)
    trunk, info = ADAPTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        hidden_states = trunk.eval()(**extract(structures)).last_hidden_state
        assert torch.equal(hidden_states, model.adapt(**extract(structures)).last_hidden_state)


def test_global_state_is_left_alone(make_force_model, make_energy_model):
    before = (torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed())
    make_force_model()
    ADAPTForEnergy(make_energy_model().config)
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed()) == before


def test_data_of_one_element_can_be_learned():
    """Its descriptors are at their mean, so pairwise tokens are zero; without biases so would be every gradient."""
    torch.manual_seed(0)
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.2, seed=0)
    batch = ADAPTFeatureExtractor()(atoms)
    statistics = {"feature_mean": batch["input_features"][0, 0].tolist(), "feature_std": [1.0] * 12}
    model = ADAPTForForces(ADAPTConfig(architecture="pairwise", hidden_size=16, num_attention_heads=4, **statistics))
    loss = model(**batch, labels=torch.ones(1, 8, 3)).loss
    loss.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.force_head.parameters())
