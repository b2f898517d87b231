"""Exact properties of the pairwise geometry: symmetry, periodic images, continuity, and neutrality of the chunking."""

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from modeling_adapt import ADAPTFeatureExtractor, pairwise_adapt

extract = ADAPTFeatureExtractor()


@pytest.fixture
def model(make_force_model):
    return make_force_model(geometry="pairwise", num_vector_channels=8, pairwise_cutoff=4.0)


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
    from ase.neighborlist import neighbor_list

    for atoms in (skewed, structures[0], structures[2]):
        batch = extract(atoms, dtype="float64")
        geometry = pairwise_adapt.ADAPTPairwiseGeometry.__new__(pairwise_adapt.ADAPTPairwiseGeometry)
        geometry.cutoff = 4.0
        images, valid, others = geometry._displacements(batch["input_features"][..., :3], batch["cell"], None)
        for atom in range(len(atoms)):
            first, second, distances = neighbor_list("ijd", atoms, 4.0)
            expected = sorted(zip(second[first == atom], distances[first == atom].round(6), strict=True))
            slots = valid[0, atom]
            lengths = images[0, atom][slots].norm(dim=-1).numpy().round(6)
            assert sorted(zip(others[0, atom][slots].tolist(), lengths, strict=True)) == expected


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


def test_chunking_changes_nothing(model, structures, monkeypatch):
    whole = forces_of(model, structures[2])
    monkeypatch.setattr(pairwise_adapt, "_PAIRS_AT_ONCE", 3 * len(structures[2]))
    monkeypatch.setattr(pairwise_adapt, "_ATOMS_AT_ONCE", 5)
    assert np.abs(forces_of(model, structures[2]) - whole).max() < 1e-6


@pytest.mark.parametrize("geometry", ["cartesian", "fourier", "pairwise"])
def test_net_force_is_removed(make_force_model, structures, geometry):
    model = make_force_model(geometry=geometry, remove_net_force=True)
    with torch.no_grad():
        batch = extract(structures)
        forces = model(**batch).forces * batch["attention_mask"][..., None]
    assert forces.sum(dim=1).abs().max() < 1e-5


def test_statistics_that_would_break_equivariance_are_refused(make_force_model):
    with pytest.raises(Exception, match="needs force_mean 0 and one force_std"):
        make_force_model(geometry="pairwise", force_std=(0.1, 0.2, 0.1))
