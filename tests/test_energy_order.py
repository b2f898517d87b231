"""The published energy network reads atoms by their place; its feature extractor makes that place canonical."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.loading import load_model
from modeling_adapt.simulation.calculator import ADAPTCalculator


@pytest.fixture
def defect() -> Atoms:
    """A rattled cell of silicon with a vacancy and a carbon atom, some atoms just across the boundary."""
    atoms = bulk("Si", cubic=True).repeat(2)[1:24]
    atoms.symbols[5] = "C"
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture
def canonical() -> ADAPTFeatureExtractor:
    return ADAPTFeatureExtractor(canonical_order=True)


@pytest.mark.parametrize("pbc", [True, False, (True, True, False)])
def test_permuted_structure_gives_the_same_tokens_to_the_bit(canonical, defect, pbc):
    defect.pbc = pbc
    shuffled = defect[np.random.default_rng(0).permutation(len(defect))]
    one, other = canonical(defect), canonical(shuffled)
    assert all((one[name] == other[name]).all() for name in one)
    plain, permuted = ADAPTFeatureExtractor()(defect), ADAPTFeatureExtractor()(shuffled)
    assert not (plain["input_features"] == permuted["input_features"]).all()


def test_padding_keeps_the_order(canonical, defect):
    both = canonical([defect, bulk("Si")])
    assert (both["input_features"][0] == canonical(defect)["input_features"][0]).all()


def test_vibration_and_images_do_not_shuffle_the_atoms(canonical):
    """Atoms keep their place under noise of 300 K, also those at the boundary that leave the cell."""
    perfect = bulk("Si", cubic=True).repeat(3)
    sites = canonical(perfect, dtype="float64")["input_features"][0, :, :3].numpy()
    moved = perfect.copy()
    moved.rattle(0.08, seed=3)
    found = canonical(moved, dtype="float64")["input_features"][0, :, :3].numpy()
    assert np.abs(found - sites).max() < 0.5
    moved.wrap()
    cell = perfect.cell.lengths()
    wrapped = canonical(moved, dtype="float64")["input_features"][0, :, :3].numpy()
    distance = np.abs(wrapped - sites)
    assert np.minimum(distance, cell - distance).max() < 0.5


def test_saved_with_the_checkpoint_and_used_by_the_calculator(
    canonical, defect, make_energy_model, make_force_model, tmp_path
):
    energy = make_energy_model(element_energies={"Si": -5.0, "C": -7.0}, energy_mean=0.0)
    energy.save_pretrained(tmp_path / "energy")
    canonical.save_pretrained(tmp_path / "energy")
    make_force_model().save_pretrained(tmp_path / "forces")
    assert load_model(tmp_path / "energy")[1].canonical_order
    assert not load_model(tmp_path / "forces")[1].canonical_order
    energies, forces = [], []
    for atoms in (defect, defect[::-1]):
        atoms.calc = ADAPTCalculator.from_pretrained(tmp_path / "forces", tmp_path / "energy")
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    assert energies[0] == energies[1]
    np.testing.assert_allclose(forces[0], forces[1][::-1], atol=1e-6)  # in the order of the atoms, not the canonical


def test_reference_energies_are_added(make_energy_model, defect, canonical):
    inputs = canonical(defect)
    plain = make_energy_model(energy_mean=0.0)(**inputs).energy.item()
    with_references = make_energy_model(energy_mean=0.0, element_energies={"Si": -5.0, "C": -7.0})(**inputs)
    assert with_references.energy.item() == pytest.approx(plain - 5.0 * 22 - 7.0, abs=1e-5)
    del inputs["atomic_numbers"]
    with pytest.raises(ValueError, match="needs atomic_numbers"):
        make_energy_model(element_energies={"Si": -5.0})(**inputs)
