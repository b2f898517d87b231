"""The pooled energy: a sum over atoms whose gradient is a conservative force."""

import numpy as np
import pytest
import torch

from modeling_adapt import ADAPTFeatureExtractor

extract = ADAPTFeatureExtractor()


@pytest.fixture
def model(make_energy_model):
    return make_energy_model(
        architecture="pairwise",
        pairwise_cutoff=4.0,
        num_vector_channels=8,
        energy_mean=0.01,
        energy_std=0.2,
        element_energies={"Si": -5.4, "C": -9.1},
    ).double()


def outputs_of(model, atoms, **options):
    with torch.no_grad():
        return model(**extract(atoms, dtype="float64"), **options)


def test_energy_does_not_depend_on_the_order_of_atoms(model, structures):
    order = np.random.default_rng(0).permutation(len(structures[1]))
    energy = outputs_of(model, structures[1]).energy
    assert torch.allclose(outputs_of(model, structures[1][order]).energy, energy, atol=1e-10)


def test_energy_grows_with_the_structure(model, structures):
    energy = outputs_of(model, structures[1]).energy
    assert torch.allclose(outputs_of(model, structures[1].repeat((2, 1, 2))).energy, 4 * energy, atol=1e-9)


def test_batches_and_padding_change_nothing(model, structures):
    together = outputs_of(model, structures, compute_forces=True)
    for index, atoms in enumerate(structures):
        alone = outputs_of(model, atoms, compute_forces=True)
        assert torch.allclose(together.energy[index], alone.energy[0], atol=1e-9)
        assert torch.allclose(together.forces[index, : len(atoms)], alone.forces[0], atol=1e-9)


def test_reference_energies_are_added(model, structures):
    with_references = outputs_of(model, structures[1]).energy
    model.references = None
    difference = with_references - outputs_of(model, structures[1]).energy
    assert abs(difference.item() - (7 * -5.4 - 9.1)) < 1e-9


def test_element_without_reference_energy_is_named(model, structures):
    structures[0].symbols[2] = "Ge"
    with pytest.raises(ValueError, match="no reference energy for Ge; the model knows Si, C"):
        outputs_of(model, structures[0])


def test_forces_are_the_gradient(model, structures):
    forces = outputs_of(model, structures[1], compute_forces=True).forces[0].numpy()
    step = 1e-4
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        energies = []
        for sign in (1, -1):
            atoms = structures[1].copy()
            atoms.positions[atom, axis] += sign * step
            energies.append(outputs_of(model, atoms).energy.item())
        assert abs(forces[atom, axis] + (energies[0] - energies[1]) / (2 * step)) < 1e-6
    assert np.abs(forces.sum(axis=0)).max() < 1e-9


def test_forces_are_learned_with_the_energy(model, structures):
    batch = extract(structures, dtype="float64")
    padding = (batch["attention_mask"] == 0)[..., None]
    reference_forces = torch.randn(3, 16, 3, generator=torch.Generator().manual_seed(0)).double()
    reference_forces = reference_forces.masked_fill(padding, -100.0)
    labels = torch.tensor([-40.0, -50.0, -85.0]).double()
    model.train()
    outputs = model(**batch, labels=labels, reference_forces=reference_forces)
    counts = torch.tensor([7.0, 8.0, 16.0]).double()
    energy_loss = ((outputs.energy - labels) / counts / model.energy_normalizer.scale.numbers[0]).square()
    scale = sum(model.config.force_std) / 3
    errors = ((outputs.forces - reference_forces) / scale).square().masked_fill(padding, 0.0)
    expected = (energy_loss + errors.sum(dim=(1, 2)) / (3 * counts)).mean()
    assert torch.allclose(outputs.loss, expected, rtol=1e-9)
    outputs.loss.backward()
    assert model.adapt.trunk.layers[0].radial_gate.weight.grad.abs().max() > 0


def test_published_network_has_no_forces(make_energy_model, structures):
    with pytest.raises(ValueError, match="architecture 'mlp' has no usable gradient"):
        make_energy_model()(**extract(structures), compute_forces=True)


def test_structures_without_force_labels_learn_their_energy_alone(model, structures):
    batch = extract(structures[0], dtype="float64")
    labels, no_forces = torch.tensor([-40.0]).double(), torch.full((1, 7, 3), -100.0).double()
    energy_alone = model(**batch, labels=labels).loss
    assert torch.allclose(model(**batch, labels=labels, reference_forces=no_forces).loss, energy_alone)
