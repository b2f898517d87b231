"""`pipeline("atom-forces")`: structures, lists and files in, forces in eV/Å out."""

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from transformers import pipeline

from modeling_adapt import ADAPTFeatureExtractor
from modeling_adapt.crystal.trained_region import fit_domain
from modeling_adapt.data.structures import structure_row
from modeling_adapt.simulation.calculator import ADAPTCalculator


def _structures():
    structures = [bulk("Si", cubic=True), bulk("Si"), bulk("Si", cubic=True).repeat((2, 1, 1))]
    for number, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=number)
    return structures


@pytest.fixture
def folder(make_force_model, tmp_path):
    make_force_model(architecture="pairwise", num_vector_channels=8).save_pretrained(tmp_path / "forces")
    ADAPTFeatureExtractor().save_pretrained(tmp_path / "forces")
    return tmp_path / "forces"


@pytest.fixture
def forces(folder):
    return pipeline("atom-forces", model=str(folder), device="cpu")


def test_it_says_what_the_calculator_says(forces, folder):
    for atoms in _structures():
        atoms.calc = ADAPTCalculator.from_pretrained(folder)
        result = forces(atoms)
        assert set(result) == {"forces"} and result["forces"].dtype == np.float64
        np.testing.assert_allclose(result["forces"], atoms.get_forces(), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_lists_of_structures_of_different_sizes(forces, batch_size):
    structures = _structures()
    results = forces(structures, batch_size=batch_size)
    assert [result["forces"].shape for result in results] == [(8, 3), (2, 3), (16, 3)]
    for atoms, result in zip(structures, results, strict=True):
        np.testing.assert_allclose(result["forces"], forces(atoms)["forces"], atol=1e-5)
    assert forces([structures[0]])[0].keys() == {"forces"}  # a list gives a list


def test_files_and_mappings(forces, tmp_path):
    structures = _structures()
    ase.io.write(tmp_path / "one.extxyz", structures[0])
    ase.io.write(tmp_path / "all.extxyz", structures)
    one = forces(tmp_path / "one.extxyz")
    np.testing.assert_allclose(one["forces"], forces(structures[0])["forces"], atol=1e-5)
    assert len(forces(str(tmp_path / "all.extxyz"))) == 3
    assert len(forces([str(tmp_path / "one.extxyz"), structures[1]])) == 2
    numbers, positions, cell = structures[0].numbers, structures[0].positions, structures[0].cell.array
    mapping = {"atomic_numbers": numbers, "positions": positions, "cell": cell}
    np.testing.assert_allclose(forces(mapping)["forces"], one["forces"], atol=1e-5)


def test_pooled_energy_gives_its_gradient_and_the_published_network_says_that_it_cannot(make_energy_model, tmp_path):
    for name, fields in (("pooled", {"architecture": "pairwise"}), ("mlp", {})):
        make_energy_model(num_vector_channels=8, **fields).save_pretrained(tmp_path / name)
        ADAPTFeatureExtractor().save_pretrained(tmp_path / name)
    atoms = _structures()[0]
    result = pipeline("atom-forces", model=str(tmp_path / "pooled"), device="cpu")(atoms)
    atoms.calc = ADAPTCalculator.from_pretrained(tmp_path / "pooled")
    assert result["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(result["forces"], atoms.get_forces(), atol=1e-6)
    with pytest.raises(ValueError, match="gives energies only"):
        pipeline("atom-forces", model=str(tmp_path / "mlp"), device="cpu")(atoms)


def test_mappings_are_compared_with_the_trained_region_too(make_force_model, tmp_path):
    model = make_force_model(architecture="pairwise")
    model.config.training_domain = fit_domain([structure_row(bulk("Si", cubic=True), np.zeros((8, 3)))]).to_dict()
    model.save_pretrained(tmp_path / "model")
    ADAPTFeatureExtractor().save_pretrained(tmp_path / "model")
    forces = pipeline("atom-forces", model=str(tmp_path / "model"))
    germanium = bulk("Ge", cubic=True)
    mapping = {"atomic_numbers": germanium.numbers, "positions": germanium.positions, "cell": germanium.cell.array}
    for structure in (germanium, mapping):
        with pytest.raises(ValueError, match="atom 0 is Ge"):
            forces(structure, outside_domain="raise")


def test_outside_the_trained_region(make_force_model, tmp_path, recwarn):
    atoms = _structures()[0]
    model = make_force_model(architecture="pairwise", num_vector_channels=8)
    model.config.training_domain = fit_domain([structure_row(atoms, np.zeros((8, 3)))]).to_dict()
    model.save_pretrained(tmp_path / "trained")
    ADAPTFeatureExtractor().save_pretrained(tmp_path / "trained")
    forces = pipeline("atom-forces", model=str(tmp_path / "trained"), device="cpu")
    forces(atoms, outside_domain="raise")
    foreign = atoms.copy()
    foreign.symbols[0] = "Ge"
    with pytest.raises(ValueError, match="outside the trained region: atom 0 is Ge"):
        forces(foreign, outside_domain="raise")
    with pytest.warns(UserWarning, match="atom 0 is Ge"):
        forces(foreign)
    recwarn.clear()
    forces(foreign, outside_domain="ignore")
    assert not [warning for warning in recwarn if "trained region" in str(warning.message)]
    with pytest.raises(ValueError, match="must be raise, warn or ignore"):
        forces(foreign, outside_domain="shout")
    with pytest.raises(TypeError, match="no parameter 'temperature'"):
        forces(foreign, temperature=300)
